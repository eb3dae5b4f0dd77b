"""The arguments of PsyNeuLink's ``learn()``, and of the ``run()`` that it calls: what becomes of each.

An argument is honoured, or refused by an error that says what to do instead; none is ignored. (PsyNeuLink's own
PyTorch mode takes all of them, and disregards many: time steps, passes, ``runtime_params``, ``patience``, ...)

| honoured | how |
|---|---|
| ``inputs`` | all sequences, in their order |
| ``epochs`` | passes over all sequences; memory, optimiser and numbers of trials go on from one to the next (an epoch of ``train_episodes`` is another one of its worlds, and begins with an empty memory) |
| ``learning_rate`` | a number, or a dict by projection or its name; False: frozen |
| ``minibatch_size`` | sequences an update; ``TRAINING_SET``: all |
| ``call_before_minibatch``, ``call_after_minibatch`` | the latter with epoch, minibatch, num_minibatches, context |
| ``call_before_trial``, ``call_after_trial`` | once a minibatch; as everywhere in ``learn()``, the former once more at the end |
| ``context`` | weights, memory, optimiser, results and logs of that context |
| ``execution_mode`` | ``ExecutionMode.PyTorch`` |
| ``synch_projection_matrices_with_torch``, ``synch_node_values_with_torch``, ``synch_results_with_torch`` | when PsyNeuLink is given them; in the end it has them |
| ``retain_torch_losses`` | whether ``torch_losses`` keeps the loss of each minibatch |
| ``report_output``, ``report_params``, ``report_progress``, ``report_simulations``, ``report_to_devices`` | a minibatch is what they call a trial; inputs and results are those of its last step |
| ``log`` | True: log all that ``learn()`` logs (see ``logs``) |

``REFUSED`` has the others.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from psyneulink import SOFT_CLAMP, TRAINING_SET, Never

HONOURED = frozenset(
    {
        "inputs",
        "epochs",
        "learning_rate",
        "minibatch_size",
        "call_before_minibatch",
        "call_after_minibatch",
        "call_before_trial",
        "call_after_trial",
        "context",
        "execution_mode",
        "synch_projection_matrices_with_torch",
        "synch_node_values_with_torch",
        "synch_results_with_torch",
        "retain_torch_losses",
        "report_output",
        "report_params",
        "report_progress",
        "report_simulations",
        "report_to_devices",
        "log",
    }
)


def _nothing(value: Any) -> bool:
    return value is None or value is NotImplemented


def _off(value: Any) -> bool:
    return _nothing(value) or value is False


_STEPS = "the steps of a sequence are computed at once; use call_before_minibatch and call_after_minibatch"
_WHOLE = "leave out, or repeat, sequences in inputs"
_EARLY = "PsyNeuLink does not stop early in PyTorch mode; raise an exception in call_after_minibatch instead"
_OPTIONS = "give synch_projection_matrices_with_torch, synch_node_values_with_torch, ... themselves"
_SCHEDULE = "each node is executed once a step, in the order of the composition's own scheduler"
_BEGIN = "each sequence begins with zeros, or with what Session.begin (initial_states) says"
_VALUES = "the loss has all values: keep there what you need"

REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "targets": (_nothing, "give the loss as a function of (which, values), which knows its targets"),
    "num_trials": (_nothing, _WHOLE),
    "randomize_minibatches": (_off, "permute the sequences in inputs"),
    "patience": (_nothing, _EARLY),
    "min_delta": (lambda value: _nothing(value) or value == 0, _EARLY),
    "optimizations_per_minibatch": (
        lambda value: _nothing(value) or value == 1,
        "it must be 1: a sequence would be stored repeatedly",
    ),
    "execute_in_additional_optimizations": (_nothing, "there is one optimisation a minibatch"),
    "runtime_optimizer_params": (_nothing, "give learning_rate"),
    "optimizer_params": (_nothing, "give learning_rate"),
    "base_context": (
        lambda value: _nothing(getattr(value, "execution_id", value)),
        "set weights and memory in the context itself",
    ),
    "skip_initialization": (_off, "it is done where it is needed"),
    "skip_analyze_graph": (_off, "it is done where it is needed"),
    "termination_processing": (_nothing, "a sequence ends with its inputs: cut these"),
    "scheduler": (_nothing, _SCHEDULE),
    "scheduling_mode": (_nothing, _SCHEDULE),
    "default_absolute_time_unit": (_nothing, _SCHEDULE),
    "call_before_time_step": (_nothing, _STEPS),
    "call_after_time_step": (_nothing, _STEPS),
    "call_before_pass": (_nothing, _STEPS),
    "call_after_pass": (_nothing, _STEPS),
    "runtime_params": (_nothing, "set the Parameters before the call"),
    "clamp_input": (lambda value: _nothing(value) or value == SOFT_CLAMP, "inputs are soft-clamped"),
    "initialize_cycle_values": (_nothing, _BEGIN),
    "reset_stateful_functions_to": (_nothing, _BEGIN),
    "reset_stateful_functions_when": (lambda value: _nothing(value) or isinstance(value, Never), _BEGIN),
    "animate": (_off, "animate run() instead"),
    "batched_results": (_off, "results has the outputs at the last step of each sequence, one after the other"),
    "synch_node_variables_with_torch": (_nothing, "node values are synchronised, variables are not; " + _VALUES),
    "retain_torch_sample_values": (_nothing, _VALUES),
    "retain_torch_targets": (_nothing, _VALUES),
    "synch_with_pnl_options": (_nothing, _OPTIONS),
    "retain_in_pnl_options": (_nothing, _OPTIONS),
}
"""Arguments that are refused: whether a value asks for nothing and is taken, and what to do instead."""


def refusal(name: str, given: Mapping[str, Any], n: int) -> str | None:
    """Why the arguments cannot be honoured, in words; None if they can.

    Args:
        name: the composition's.
        given: the arguments that were given.
        n: number of sequences.

    Raises:
        TypeError: an argument that PsyNeuLink does not have either.
        ValueError: a number that is out of its range.
    """
    for argument, value in given.items():
        if argument in HONOURED:
            continue
        if argument not in REFUSED:
            raise TypeError(f"learn() of '{name}' got an unknown argument: {argument}={value!r}.")
        asks_for_nothing, remedy = REFUSED[argument]
        if not (asks_for_nothing(value) or (argument == "num_trials" and value == n)):
            return f"learn() of '{name}' does not take {argument}={value!r}: {remedy}."
    _check_number(name, "epochs", given.get("epochs"))
    if not (isinstance(size := given.get("minibatch_size"), str) and size == TRAINING_SET):
        _check_number(name, "minibatch_size", size, max(n, 1))
    return None


def _check_number(name: str, argument: str, value: Any, most: int | None = None) -> None:
    if value is None:
        return
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        limit = "≥ 1" if most is None else f"from 1 to {most}, the number of sequences"
        raise ValueError(f"learn() of '{name}': {argument} must be a whole number {limit}; got {value!r}.")
