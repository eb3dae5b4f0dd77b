"""``EpisodicMemory`` beside PsyNeuLink's ``ContentAddressableMemory``: the same operations, at random, on both.

Without a kernel, everything that can be seen must be the same: what is returned, kept and shown, warnings, errors.
With one, what is returned and kept, as long as PsyNeuLink's class works with a distance that orders entries alike.
"""

import functools
import re
import warnings

import numpy as np
import psyneulink as pnl
import pytest
from eplstm.models import EpisodicMemory
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from psyneulink.core.globals.keywords import MIN_INDICATOR

OPERATIONS = 15
"""Most of them in an example."""
AT_LENGTH = 10
"""Fewest of them in a long one."""
SHOWN = ("distance", "distances_by_field", "distances_to_entries", "previous_value", "memory_num_fields", "memory")


def examples(n):
    """The same ones each time. To look for smaller ones that fail, too, would take minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=n, deadline=None, derandomize=True, phases=phases, suppress_health_check=list(HealthCheck)
    )


# ---- what is drawn ----------------------------------------------------------------------------------------------

FORMS = [(2,), (2, 2), (2, 3), (3, 3, 3), (1, 2, 3)]
VALUES = st.integers(0, 2).map(float)  # few: ties and duplicates
DISTANCES = {
    "default": None,
    "euclidean": lambda: pnl.Distance(metric=pnl.EUCLIDEAN),
    "difference": lambda: pnl.Distance(metric=pnl.DIFFERENCE),
}


def entries(sizes):
    return st.tuples(*(st.lists(VALUES, min_size=n, max_size=n) for n in sizes)).map(list)


def weights_of(n_fields):
    return st.lists(st.sampled_from([0, 1, 1, 2, None]), min_size=n_fields, max_size=n_fields) | st.just([1])


def of_few(**choices):
    """Some of these keywords, each with one of its values."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in choices.items()})


CHANGES = {
    "duplicate_entries_allowed": [True, False, pnl.OVERWRITE],
    "equidistant_entries_select": [pnl.OLDEST, pnl.NEWEST, pnl.RANDOM],
    "retrieval_prob": [0.0, 0.5, 1.0],
    "storage_prob": [0.0, 0.5, 1.0],
    "max_entries": [1, 3, 4],
}


@st.composite
def programs(draw, forms, settings, changes, wrong, fewest=1):
    """The form of entries, settings of the constructor, and operations: (name, argument) each.

    Args:
        settings, changes: values of the constructor's arguments, and of Parameters that are set later.
        wrong: whether there are entries of other sizes, and weights that are set later.
        fewest: operations.
    """
    sizes = draw(st.sampled_from(forms))
    if len(set(sizes)) > 1:  # see test_needed_unequal_fields
        settings, changes = ({**each, "max_entries": [1000]} for each in (settings, changes))
    entry, several = entries(sizes), st.lists(entries(sizes), min_size=1, max_size=3)
    given = draw(of_few(**settings)) | {"seed": draw(st.integers(0, 5))}
    given |= draw(st.fixed_dictionaries({}, optional={"initializer": several}))
    given |= draw(st.fixed_dictionaries({}, optional={"distance_field_weights": weights_of(len(sizes))}))
    arguments = dict.fromkeys(("call", "get_memory", "retrieve", "store", "delete_from_memory"), entry)
    arguments |= {"add_to_memory": entry | several, "reset": several}
    arguments |= {name: st.sampled_from(values) for name, values in changes.items()}
    if wrong:
        other = entries(draw(st.sampled_from(FORMS)))
        arguments |= {"wrong call": other, "wrong add_to_memory": st.lists(other, max_size=2)}
        arguments["distance_field_weights"] = weights_of(len(sizes))
    names = st.sampled_from([*["call"] * 5, *["add_to_memory"] * 2, *arguments])
    steps = names.flatmap(lambda name: st.tuples(st.just(name), arguments[name]))
    return sizes, given, draw(st.lists(steps, min_size=fewest, max_size=OPERATIONS))


# ---- what is compared ------------------------------------------------------------------------------------------


def plain(value):
    """Nested lists of numbers."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, str) else float(value)


def message(said):
    said = re.sub(r"Function-\d+", "Function", str(said))
    return re.sub("EpisodicMemory|KernelMemory", "ContentAddressableMemory", said)


def outcome(act):
    """What is returned, or the error; and what is warned of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = act()
        except Exception as error:  # of whatever kind: that of the other must be the same
            result = f"{type(error).__name__}: {message(error)}"
    kinds = (DeprecationWarning, FutureWarning, RuntimeWarning)  # of numpy's, on how it computes
    return result, [message(each.message) for each in warned if not issubclass(each.category, kinds)]


def operate(memory, name, argument):
    name = name.removeprefix("wrong ")
    if name == "call":
        return memory(argument)
    if name in CHANGES or name in ("distance_field_weights", "duplicate_threshold"):
        return setattr(memory, name, argument)
    return getattr(memory, name)(argument)


def same(ours, stock, note):
    """Of both: (result, warnings)."""
    assert ours[1] == stock[1], note
    assert plain(ours[0]) == plain(stock[0]), note


def run_both(make_ours, make_stock, operations, shown, errors=True):
    """Make the two memories, and do the same with both; up to the first error of the stock one, if so.

    Returns:
        How many operations were compared.
    """
    memories, done = [], 0

    def do(ours, stock, note):
        outcomes = [outcome(ours), outcome(stock)]
        failed = isinstance(outcomes[1][0], str)
        if failed and not errors:
            return False
        same(*outcomes, note)
        return not (failed and note[0] == "reset")  # from where on the stock one shows entries that are gone

    if not do(*(lambda make=make: memories.append(make()) for make in (make_ours, make_stock)), "constructor"):
        return done
    for operation in operations if len(memories) == 2 else ():
        if not do(*(functools.partial(operate, memory, *operation) for memory in memories), operation):
            return done
        done += 1
        for name in shown:
            ours, stock = (plain(getattr(memory, name)) for memory in memories)
            assert ours == stock, (operation, name)
    return done


def check_at_length(check, programs, n):
    """So many examples, which must come to at least 10,000 operations."""
    done = []

    @examples(n)
    @given(programs)
    def each(program):
        done.append(check(program))

    each()
    assert sum(done) >= 10_000


# ---- without a kernel ------------------------------------------------------------------------------------------

OF_STOCK = CHANGES | {"duplicate_threshold": [0.0, 0.5]}
FURTHER = {"distance": [*DISTANCES], "noise": [0.5, [0.1], [0.1, 0.2]], "rate": [0.5], "declared": [True]}
WITHOUT_KERNEL = functools.partial(programs, FORMS, OF_STOCK | FURTHER, OF_STOCK, wrong=True)


def check_without_kernel(program):
    sizes, given, operations = program
    distance = DISTANCES[given.pop("distance", "default")]
    if given.pop("declared", False):
        given["default_variable"] = [np.zeros(size) for size in sizes]

    def make(kind):
        function = {} if distance is None else {"distance_function": distance()}
        return lambda: kind(**given, **function)

    return run_both(make(EpisodicMemory), make(pnl.ContentAddressableMemory), operations, SHOWN)


@examples(25)
@given(WITHOUT_KERNEL())
def test_without_a_kernel(program):
    check_without_kernel(program)


@pytest.mark.slow
def test_without_a_kernel_at_length():
    check_at_length(check_without_kernel, WITHOUT_KERNEL(fewest=AT_LENGTH), 1000)


# ---- with a kernel ---------------------------------------------------------------------------------------------

TIES = {"equidistant_entries_select": CHANGES["equidistant_entries_select"]}
WITH_KERNEL = functools.partial(programs, [(2,), (2, 2), (3, 3, 3)], CHANGES, TIES, wrong=False)


def check_with_kernel(program):
    """The nearest by Euclidean distance."""
    sizes, given, operations = program
    given = {
        "distance_field_weights": [1],
        "duplicate_entries_allowed": False,
        "equidistant_entries_select": pnl.RANDOM,
    } | given
    # Where no field counts, PsyNeuLink's class takes all entries for equal or none, as 0 is divided by 0 or not.
    assume(any(given["distance_field_weights"]))
    given["default_variable"] = [np.zeros(size) for size in sizes]
    given.setdefault("initializer", [[np.arange(size, dtype=float) for size in sizes]])

    def make_stock():
        distance, selection = pnl.Distance(metric=pnl.EUCLIDEAN), pnl.OneHot(mode=MIN_INDICATOR)
        return pnl.ContentAddressableMemory(**given, distance_function=distance, selection_function=selection)

    shown = ("memory", "memory_num_entries")
    return run_both(lambda: EpisodicMemory(**given, kernel="l2"), make_stock, operations, shown, errors=False)


@examples(25)
@given(WITH_KERNEL())
def test_with_a_kernel(program):
    check_with_kernel(program)


@pytest.mark.slow
def test_with_a_kernel_at_length():
    check_at_length(check_with_kernel, WITH_KERNEL(fewest=AT_LENGTH), 1000)
