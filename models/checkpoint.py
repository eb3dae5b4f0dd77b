"""Models on disk: save what was trained, load it into either model.

The round trip is exact, and training goes on as if it had never stopped. The learning rate and the seeds are
not in a checkpoint: they are arguments of ``train``, as is the optimiser, which must be the one whose state it is.
What the two files of a checkpoint hold is in ``checkpoint_format``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from .checkpoint_format import KINDS, AgentState, Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from .config import ModelConfig
from .person import Person
from .reference import ReferenceEpisodicLSTM

if TYPE_CHECKING:
    from .cohort import Cohort
    from .composition import EpisodicLSTMComposition

__all__ = ["CheckpointError", "describe_model", "load_model", "save_model"]

Folder = str | os.PathLike[str]
Kind = Literal["reference", "composition", "cohort"]
Model = TypeVar("Model", "ReferenceEpisodicLSTM", "EpisodicLSTMComposition", "Cohort")


def save_model(
    model: ReferenceEpisodicLSTM | EpisodicLSTMComposition | Cohort,
    folder: Folder,
    *,
    notes: dict[str, Any] | None = None,
    overwrite: bool = False,
    changed_graph: bool = False,
) -> Path:
    """Save weights, memories of all environments and optimiser's state of a model or a cohort, config and person.

    Of a composition, what it has in its own execution context.

    Args:
        model: the reference, the composition, or a cohort.
        folder: the checkpoint's folder; made if need be.
        notes: anything that JSON can hold; ``describe_model`` gives it back.
        overwrite: replace a checkpoint that is there already. Other files in its folder stay.
        changed_graph: save a composition whose graph is not as its constructor made it, too. The change itself is
            not saved: your code must make it again, in the agent into which ``load_model(folder, model=agent)``
            loads. Saved of it are the matrices of added projections (not what the optimiser keeps of them, which
            begins anew) and the entries of added memories.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a checkpoint and ``overwrite`` is False, or it holds something else.
        TypeError: the model is none of these.
        ValueError: the graph has been changed and ``changed_graph`` is False, the model is not in float32 or
            float64 or holds values not finite, or JSON cannot hold the notes; nothing is written.
    """
    folder, kind = Path(folder).absolute(), _kind_of(model)
    config, change, graph = _graph_of(model, changed_graph) if kind == "composition" else (model.config, None, {})
    agents = [(p,) for p in range(len(model))] if kind == "cohort" else [()]  # type: ignore[arg-type]
    states = [_state_of(model, *agent) for agent in agents]
    person = getattr(model, "person", Person())  # cohorts are of trained agents
    checkpoint = Checkpoint(kind, config, states, person, {} if notes is None else notes, change, graph)
    write_checkpoint(folder, checkpoint, overwrite)
    return folder


@overload
def load_model(folder: Folder, kind: Literal["reference"], agent: int | None = None) -> ReferenceEpisodicLSTM: ...
@overload
def load_model(
    folder: Folder, kind: Literal["composition"], agent: int | None = None
) -> EpisodicLSTMComposition: ...
@overload
def load_model(folder: Folder, kind: Literal["cohort"], agent: None = None) -> Cohort: ...
@overload
def load_model(folder: Folder, kind: None = None, agent: int | None = None, *, model: Model) -> Model: ...
@overload
def load_model(folder: Folder, kind: None = None, agent: int | None = None) -> Any: ...


def load_model(folder: Folder, kind: Kind | None = None, agent: int | None = None, *, model: Any = None) -> Any:
    """Make the model that a checkpoint holds, with its weights, memories, optimiser's state and person.

    Args:
        folder: a folder written by ``save_model``.
        kind: what to make, whichever was saved; None: as saved, and of an agent of a cohort the reference. The
            reference has the precision of what was saved, the others float64.
        agent: which agent of a cohort, from 0, where one of several is to be made a reference or a composition.
        model: load into this model, and return it, in place of making one. It has the same config, and keeps its
            precision. A composition that was saved with ``changed_graph=True`` is loaded so: make it, change its
            graph, and give it.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; nothing on disk is changed.
        ValueError: the kind is unknown, it is not clear which agent is meant, or the given model does not fit.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"load_model: kind must be {', '.join(map(repr, KINDS))} or None; got {kind!r}.")
    checkpoint, _ = read_checkpoint(Path(folder))
    if model is not None:
        _check_given(model, kind, checkpoint, folder)
        kind = _kind_of(model)
    elif checkpoint.changed_graph is not None:
        raise ValueError(
            f"load_model: {folder} is of a composition whose graph had been changed ({checkpoint.changed_graph}). "
            "Make an agent with the same config, change it in the same way, and give it: load_model(folder, "
            "model=agent)."
        )
    elif kind is None:
        kind = checkpoint.kind if agent is None or checkpoint.kind != "cohort" else "reference"  # type: ignore[assignment]
    if kind == "cohort":
        _check_for_cohort(checkpoint, folder, agent)
        model = _made(kind, checkpoint) if model is None else model
        model.clear_memory()
        for p in range(len(model)):  # first, as that of another optimiser does not go with what others still have
            model.set_optimizer_state({}, p)
        for p, state in enumerate(checkpoint.agents):
            _put(model, state, p)
        return model
    state = checkpoint.agents[_which(checkpoint, folder, agent)]
    model = _made(kind, checkpoint) if model is None else model
    model.clear_memory()
    model.person = checkpoint.person
    _put(model, state)
    if checkpoint.changed_graph is not None:
        from .checkpoint_graph import put_state_of_graph

        put_state_of_graph(model, checkpoint.graph)
    return model


def describe_model(folder: Folder) -> dict[str, Any]:
    """What model.json says of a checkpoint, its notes among it, once the whole checkpoint has been checked.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    return read_checkpoint(Path(folder))[1]


# ---- models ------------------------------------------------------------------------------------------


def _kind_of(model: object) -> Kind:
    if isinstance(model, ReferenceEpisodicLSTM):
        return "reference"
    from .cohort import Cohort

    if isinstance(model, Cohort):
        return "cohort"
    from .composition import EpisodicLSTMComposition  # PsyNeuLink is slow to import: only where needed

    if isinstance(model, EpisodicLSTMComposition):
        return "composition"
    raise TypeError(
        "save_model and load_model take a ReferenceEpisodicLSTM, an EpisodicLSTMComposition or a Cohort; "
        f"got {type(model).__name__}."
    )


def _graph_of(model: Any, changed_graph: bool) -> tuple[ModelConfig, str | None, dict[str, np.ndarray]]:
    """Of a composition: its config, how its graph has been changed, and what it holds therefore."""
    from .checkpoint_graph import settings_and_change, state_of_graph

    config, change = settings_and_change(model)
    if change is None:
        return config, None, {}
    if not changed_graph:
        raise ValueError(
            f"save_model: the graph of '{model.name}' is not as its constructor made it ({change}), and "
            "load_model would make one without the change. Undo it; or pass changed_graph=True, and load into an "
            "agent that your code has changed in the same way: load_model(folder, model=agent)."
        )
    return config, change, state_of_graph(model)


def _made(kind: Kind | None, checkpoint: Checkpoint) -> Any:
    """A new model of a kind, for the states of a checkpoint."""
    if kind == "reference":
        model = ReferenceEpisodicLSTM(checkpoint.config, seed=0)
        weights = checkpoint.agents[0].weights
        return model.double() if weights["input_weight"].dtype.name == "float64" else model
    if kind == "composition":
        from .composition import EpisodicLSTMComposition

        return EpisodicLSTMComposition(checkpoint.config, seed=0)
    from .cohort import Cohort

    return Cohort(checkpoint.config, [0] * len(checkpoint.agents))


def _state_of(model: Any, *agent: int) -> AgentState:
    """The state of a model, or of one agent of a cohort."""
    memories = [model.memory(*agent, environment=e) for e in range(model.environments)]
    return AgentState(model.weights(*agent), model.optimizer_state(*agent), memories)


def _put(model: Any, state: AgentState, *agent: int) -> None:
    model.set_optimizer_state(state.optimizer, *agent)
    model.set_weights(state.weights, *agent)
    for environment, (keys, values) in enumerate(state.memories):
        model.set_memory(keys, values, *agent, environment=environment)


def _which(checkpoint: Checkpoint, folder: Folder, agent: int | None) -> int:
    """The number of the agent that is meant."""
    agents = len(checkpoint.agents)
    if agent is None and agents > 1:
        raise ValueError(
            f"load_model: {folder} holds {agents} agents: give agent=0 to {agents - 1}, or kind='cohort'."
        )
    if not 0 <= (agent or 0) < agents:
        raise ValueError(f"load_model: {folder} holds {agents} agents, counted from 0; got agent={agent!r}.")
    return agent or 0


def _check_for_cohort(checkpoint: Checkpoint, folder: Folder, agent: int | None) -> None:
    if agent is not None:
        raise ValueError("load_model: a cohort is made of all agents; leave out agent, or give another kind.")
    if checkpoint.person != Person():
        raise ValueError(
            f"load_model: {folder} holds a person, who cannot be part of a cohort. Load a reference or a "
            "composition, and make the cohort of it once its person is Person()."
        )


def _check_given(model: Any, kind: Kind | None, checkpoint: Checkpoint, folder: Folder) -> None:
    """Raise ValueError unless a checkpoint can be loaded into a model that is there already."""
    own, config, change = _kind_of(model), model.config, None
    if own == "composition":
        from .checkpoint_graph import settings_and_change

        config, change = settings_and_change(model)
    if kind not in (None, own):
        raise ValueError(f"load_model: the model is a {own}, not a {kind}; leave out kind.")
    if own == "cohort" and len(model) != len(checkpoint.agents):
        raise ValueError(f"load_model: {folder} holds {len(checkpoint.agents)} agents, the cohort {len(model)}.")
    if config != checkpoint.config:
        raise ValueError(
            f"load_model: {folder} has {checkpoint.config}, the model {config}. Make one with the same config."
        )
    if checkpoint.changed_graph is None:
        return
    if change is None:
        raise ValueError(
            f"load_model: {folder} is of a composition whose graph had been changed ({checkpoint.changed_graph}); "
            "that of the model is as made. Change it in the same way first."
        )
    from .checkpoint_graph import check_state_of_graph

    check_state_of_graph(model, checkpoint.graph)
