"""Judge the modules of unknown kind by the expression derived from their captured program.

A module that cannot be captured is judged by automatic differentiation on a few samples; its note says which was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils._pytree import tree_map

from codegen.capture.loading import first_line
from derive.algebra.patience import Deadline
from verify.diagnosis.captured_factors import LAW, SECONDS, NotCaptured, captured_factors
from verify.diagnosis.differentiation import (
    Refused,
    WholeCall,
    judged,
    own_names,
    plain_numbers,
    values_of,
    whole_parts,
)
from verify.diagnosis.layers import Plan, Unjudged
from verify.diagnosis.observe import Observed, dense
from verify.diagnosis.parts import Moved
from verify.diagnosis.record import LayerDiagnosis, Parts, spread
from verify.diagnosis.sums import squared


def judge_others(found: Plan, first: Observed, held: Mapping[str, Tensor]) -> dict[str, LayerDiagnosis | str]:
    """Return the record of each called module of unknown kind, or the reason why there is none."""
    result: dict[str, LayerDiagnosis | str] = {}
    deadline = Deadline(SECONDS)
    for name, call in first.captured.whole.items():
        try:
            record = judged(call, found.names_of(call.module), held, first.gradients)
            result[name] = _by_capture(record, call, deadline)
        except Refused as reason:
            result[name] = str(reason)
        except Exception as problem:  # the module's own code may fail in a dtype it was not written for
            result[name] = f"automatic differentiation fails: {str(problem).splitlines()[0]}"
    return result


def _by_capture(record: LayerDiagnosis, call: WholeCall, deadline: Deadline) -> LayerDiagnosis:
    """Return the record with the captured module's self factors, or with the reason why it was not captured."""
    try:
        inputs = tree_map(plain_numbers, (tuple(call.arguments), dict(call.words)))
        factors = captured_factors(call.module, inputs, own_names(call.module), call.z, deadline)
    except NotCaptured as reason:
        return replace(record, note=f"{record.note}; not by capture: {reason}")
    except Exception as problem:  # the module's own code is copied and run in another dtype, and may fail
        return replace(record, note=f"{record.note}; not by capture: {first_line(problem)}")
    count = factors.values.numel()
    more = f"; of its {call.calls} calls this is the first" if call.calls > 1 else ""
    return replace(
        record,
        law=LAW,
        sample="sample" if factors.batch_alone else "position",
        history=(spread(factors.values),),
        note=f"judged by its captured program on all {count} samples, K_ss = {factors.formula}; "
        f"its shares by automatic differentiation on a few{more}",
    )


def with_parts(
    records: Mapping[str, LayerDiagnosis | str], found: Plan, first: Observed, later: Observed, moved: Moved
) -> dict[str, LayerDiagnosis | str]:
    """Return the records with the contributions to the real step's change of their outputs."""
    result = dict(records)
    for name, record in records.items():
        if isinstance(record, LayerDiagnosis):
            call, names = first.captured.whole[name], found.names_of(first.captured.whole[name].module)
            met = {names[own] for own in own_names(call.module)} & set(first.gradients)
            norm = sum(squared(dense(first.gradients[n])) for n in met) ** 0.5
            before, after = (values_of(call, values, names) for values in (moved.before, moved.after))
            parts = whole_parts(call, later.captured.whole.get(name), before, after, norm)
            result[name] = replace(record, parts=parts if isinstance(parts, Parts) else None)
    return result


def still_unjudged(unjudged: tuple[Unjudged, ...], records: Mapping[str, LayerDiagnosis | str]) -> tuple[Unjudged, ...]:
    """Return the unjudged modules without a record, each with both reasons."""
    left = []
    for entry in unjudged:
        record = records.get(entry.name)
        if record is None:
            left.append(entry)
        elif isinstance(record, str):
            left.append(replace(entry, reason=f"{entry.reason}; {record}"))
    return tuple(left)
