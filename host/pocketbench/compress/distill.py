"""A smaller network in the place of the one there is, trained to answer as that does; and the control without it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.nn import functional

from pocketbench.compress import training
from pocketbench.compress.hints import hinted
from pocketbench.compress.prune import COUNTED, sizes
from pocketbench.compress.recipe import Done, NetworkContext, StepFailed

# The control has the same, or it would be none.
EPOCHS, RATE = 16, 4e-3
# Of class scores: how far they are smoothed, and how much of the loss is the teacher's where there are labels too.
TEMPERATURE, TEACHERS_SHARE = 4.0, 0.7


class Distill:
    """The workload's student, taught by teacher(), or by the network that it takes the place of where there is none."""

    def __init__(self, student: str) -> None:
        self._student = student

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """Labels are used beside the teacher where the workload has a loss(), and features where it has hints()."""
        given = context.functions.get("teacher")
        teacher = (given() if given else context.original).eval()
        loss, hints = context.functions.get("loss"), context.functions.get("hints")
        made = _student(self._student, "distill", context)
        told: dict[str, Any] = {
            "student": self._student,
            "teacher": "teacher()" if given else "the network",
            "labels": loss is not None,
        }
        beside = (
            contextlib.nullcontext((None, None))
            if hints is None
            else hinted(hints(), teacher, made, context.samples[0])
        )
        with beside as (apart, maps):
            if maps is not None:
                told["hints"] = len(maps)

            def total(inputs: Any, outputs: Any, targets: Any) -> Any:
                with torch.no_grad():
                    wanted = teacher(*inputs)
                taught = _apart(training.listed(outputs), training.listed(wanted))
                if apart is not None:
                    taught = taught + apart()
                if loss is None or targets is None:
                    return taught
                return TEACHERS_SHARE * taught + (1 - TEACHERS_SHARE) * loss(outputs, targets)

            batches, inputs = context.functions["train_batches"], len(context.samples[0])
            facts = training.train(
                made, batches, total, context.say, "distill", inputs, epochs=EPOCHS, rate=RATE, beside=maps
            )
        return made, Done({**told, **facts})

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """It is smaller, and its outputs have the shapes of the network's and move."""
        return _checked("distill", before, after, context)


class Scratch:
    """The same student and schedule without a teacher: what distillation has to be better than."""

    def __init__(self, student: str) -> None:
        self._student = student

    def apply(self, network: Any, context: NetworkContext) -> tuple[Any, Done]:
        """With the labels alone."""
        made = _student(self._student, "scratch", context)
        facts = training.fine_tune(made, context, "scratch", epochs=EPOCHS, rate=RATE)
        return made, Done({"student": self._student, **facts})

    def check(self, before: Any, after: Any, context: NetworkContext) -> Done:
        """The same as of the student that had a teacher."""
        return _checked("scratch", before, after, context)


def _student(name: str, step: str, context: NetworkContext) -> Any:
    made = context.functions[name]()
    if not isinstance(made, torch.nn.Module):
        raise StepFailed(f"{step}: {name}() gave {type(made).__name__}: a torch module is needed")
    return made


def _checked(step: str, before: Any, after: Any, context: NetworkContext) -> Done:
    counted = sizes(before, after, context)
    macs, macs_left, parameters, parameters_left = (counted[name] for name in COUNTED)
    if macs_left >= macs and parameters_left >= parameters:
        raise StepFailed(
            f"{step}: the student is no smaller than the network: {parameters_left / 1e6:.3f} million parameters, "
            f"{parameters / 1e6:.3f} before"
        )
    training.check_outputs(step, before, after, context)
    return Done(counted)


def _apart(made: list[Any], wanted: list[Any]) -> Any:
    """Class scores by their distribution, everything else by its distance in units of its own spread."""
    parts = []
    for one, aim in zip(made, wanted, strict=True):
        if one.shape != aim.shape:
            raise StepFailed(f"distill: the student gives {list(one.shape)}, its teacher {list(aim.shape)}")
        if aim.dim() == 2 and aim.shape[1] > 1:
            soft = functional.log_softmax(aim / TEMPERATURE, 1)
            own = functional.log_softmax(one / TEMPERATURE, 1)
            parts.append(functional.kl_div(own, soft, log_target=True, reduction="batchmean") * TEMPERATURE**2)
        else:
            parts.append(functional.mse_loss(one, aim) / aim.var().clamp(min=1e-6))
    return torch.stack(parts).sum()
