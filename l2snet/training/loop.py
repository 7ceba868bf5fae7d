"""The training loop of every network: optimiser, schedule, checkpoints that resume exactly, one CSV log.

A run folder holds `recipe.json`, `cases.json` (what it trains on), `log.csv` (a line per epoch) and
`checkpoint.safetensors` (network, optimiser and epoch, and the state of loss and schedule where they have one; no
pickle). The last checkpoint is the final one.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, Sampler

from l2snet.errors import InputError, TrainingError
from l2snet.files import write_text
from l2snet.parallel import keep_freed_memory
from l2snet.progress import is_first_process
from l2snet.training.distributed import share_batch_norm, start_fabric
from l2snet.training.epochs import LOG, Stopwatch, write_epoch
from l2snet.training.losses import BceDice
from l2snet.training.recipes import Recipe
from l2snet.training.schedules import Schedule

logger = logging.getLogger(__name__)

RECIPE, CASES, CUES, START = "recipe.json", "cases.json", "cues.json", "start.json"
CHECKPOINT = "checkpoint.safetensors"
# Over which batch norms take their last statistics.
SETTLING_BATCHES = 100
# Over which a watched loss is a mean.
WATCHED_BATCHES = 20

Sample = dict[str, Tensor]


def fit(
    network: nn.Module,
    dataset: Dataset[Sample],
    recipe: Recipe,
    run: Path,
    cases: Sequence[str],
    device: str = "auto",
    workers: int = 0,
    stop_after: int | None = None,
    compiled: bool = False,
    criterion: nn.Module | None = None,
    watched: Mapping[str, Dataset[Sample]] | None = None,
) -> Path:
    """Train `network` in place and return the checkpoint; the same call continues a run that was stopped.

    Processes of a launcher each call it, and share every batch; the first writes the run.

    Parameters
    ----------
    dataset : `dataset[i]` is sample i of the run, with `image` and what the loss takes.
    run : the run folder.
    cases : names of the cases trained on, written to the run.
    device : "auto", "cpu" or "cuda".
    stop_after : stop once this many epochs are done (counted from the run's start); None for all.
    compiled : let torch.compile fuse the network; needs a C++ compiler.
    criterion : the loss, of the network's output and the sample; its parameters, if any, are trained too. None for
        L2SNet's, `BceDice`.
    watched : column of the log to samples whose loss it has after each epoch, see `watched_losses`.

    Raises
    ------
    InputError : the run folder holds another recipe or other cases, or the batch cannot be shared.
    """
    keep_freed_memory()
    fabric = start_fabric(device, _has_two_planes(network, dataset[0]["image"]))
    start_run(run, recipe, cases)
    # Where they will be trained, before the optimiser loads its state: it goes where its parameter is.
    network = share_batch_norm(network.to(fabric.device), fabric, recipe.keep_statistics)
    network = network.to(memory_format=_memory_format(network))
    criterion = (BceDice() if criterion is None else criterion).to(fabric.device)
    optimizer = build_optimizer(nn.ModuleList([network, criterion]), recipe)
    schedule = recipe.schedule()
    first = 0
    if (run / CHECKPOINT).is_file():
        first = load_checkpoint(run / CHECKPOINT, network, optimizer, criterion, schedule)
    if compiled:
        network.compile()
    # Only what has parameters can be shared among processes.
    loss_of = fabric.setup_module(criterion) if any(True for _ in criterion.parameters()) else criterion
    model, optimizer = fabric.setup(network, optimizer)
    last = recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)
    steps = range(first * recipe.steps_per_epoch, last * recipe.steps_per_epoch)
    set_training(model, recipe)
    samples = _batches(dataset, recipe, steps, fabric, workers)
    with _bar(hidden=not fabric.is_global_zero) as bar:
        task = bar.add_task("train", total=(last - first) * recipe.steps_per_epoch, epoch=first)
        for epoch in range(first, last):
            if schedule.is_over:
                break
            total = torch.zeros((), device=fabric.device)
            watch = Stopwatch(fabric.device)
            for step in range(epoch * recipe.steps_per_epoch, (epoch + 1) * recipe.steps_per_epoch):
                sample = next(samples)
                rate = schedule.rate(step)
                _set_rate(optimizer, rate)
                with watch:
                    optimizer.zero_grad()
                    loss = loss_of(model(sample["image"]), sample)
                    fabric.backward(loss)
                    optimizer.step()
                total += loss.detach()
                bar.update(task, advance=1, epoch=epoch + 1)
            mean = torch.as_tensor(fabric.all_reduce(total / recipe.steps_per_epoch)).item()
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss of epoch {epoch + 1} is {mean}; the last checkpoint is kept; lower the learning rate"
                )
            schedule.record(mean)
            busy = watch.share()
            if (epoch + 1 == recipe.epochs or schedule.is_over) and not recipe.keep_statistics:
                settle_batch_norm(network, dataset, recipe, fabric, workers)
            losses = watched_losses(model, loss_of, watched or {}, recipe, fabric, workers)
            if fabric.is_global_zero:
                numbers = (f"{mean:.6f}", f"{rate:.6g}", f"{watch.elapsed():.1f}", f"{busy:.3f}")
                write_epoch(run / LOG, epoch + 1, recipe.epochs, numbers, losses)
                if (epoch + 1) % recipe.checkpoint_every == 0 or epoch + 1 == last or schedule.is_over:
                    save_checkpoint(run / CHECKPOINT, network, optimizer, epoch + 1, criterion, schedule)
            fabric.barrier()
    return run / CHECKPOINT


def watched_losses(
    model: nn.Module,
    loss_of: nn.Module,
    watched: Mapping[str, Dataset[Sample]],
    recipe: Recipe,
    fabric: Fabric,
    workers: int = 0,
) -> dict[str, float]:
    """Name to the mean loss of a dataset's samples, always the same ones, none of which the run trains on.

    As at inference: batch norms take what they have kept, and the head for organs is silent.
    """
    first = recipe.epochs * recipe.steps_per_epoch
    steps = range(first, first + WATCHED_BATCHES)
    losses = {}
    model.eval()
    with torch.no_grad():
        for name, dataset in watched.items():
            total = torch.zeros((), device=fabric.device)
            for sample in _batches(dataset, recipe, steps, fabric, workers):
                total += loss_of(model(sample["image"]), sample)
            losses[name] = torch.as_tensor(fabric.all_reduce(total / WATCHED_BATCHES)).item()
    set_training(model, recipe)
    return losses


def set_training(model: nn.Module, recipe: Recipe) -> None:
    """Training mode, in which batch norms take each batch's statistics, or those that they have (`keep_statistics`).

    A network learns with the statistics of a batch and is used with those of all. Where a body is unlike the others, as
    one whose muscles are hot, the two differ, and what it has learnt of such bodies does not hold.
    """
    model.train()
    if recipe.keep_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def settle_batch_norm(
    network: nn.Module, dataset: Dataset[Sample], recipe: Recipe, fabric: Fabric, workers: int = 0
) -> None:
    """Take the statistics of batch norms, if any, anew over many batches of the final weights, in place.

    What training keeps is a mean over the last ten batches or so, of weights that were still changing; samples as
    unlike each other as a slice of air and one of the brain make it poor.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return
    first = recipe.epochs * recipe.steps_per_epoch  # samples that the run has not had
    steps = range(first, first + min(first, SETTLING_BATCHES))
    with fabric.autocast():
        update_bn((sample["image"] for sample in _batches(dataset, recipe, steps, fabric, workers)), network)


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum, Adam or AdamW, each in one pass over the parameters."""
    if recipe.optimizer != "sgd":
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def start_run(run: Path, recipe: Recipe, cases: Sequence[str]) -> None:
    """Write a new run's recipe and cases, or check that they are those, in the order, of the run that is there."""
    if not _is_of(run / RECIPE, recipe):
        start_record(run / RECIPE, recipe.to_json())
    start_record(run / CASES, json.dumps(list(cases), indent=1) + "\n")


def _is_of(path: Path, recipe: Recipe) -> bool:
    """Whether a run is of this recipe, also where it was begun before the recipe had all its settings."""
    try:
        return type(recipe).from_json(path.read_text("utf-8")) == recipe
    except (OSError, ValueError, KeyError, InputError):
        return False


def start_record(path: Path, text: str) -> None:
    """Write a file of a new run, or check that it says the same in the run that is there.

    Of several processes the first writes; what one of them would write, all would.

    Raises
    ------
    InputError : it says something else.
    """
    if not path.is_file():
        if is_first_process():
            write_text(text, path)
    elif path.read_text("utf-8") != text:
        raise InputError(f"{path} is of another run: give the same options to continue it, or another run folder")


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    criterion: nn.Module | None = None,
    schedule: Schedule | None = None,
) -> None:
    """Write all that a run goes on from aside, then rename, so that a kill leaves the previous checkpoint whole."""
    parts = {"network": network, "criterion": criterion}
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous()
        for part, module in parts.items()
        if module is not None
        for name, value in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value.detach().cpu().contiguous()
    metadata = {"epoch": str(epoch)}
    if schedule is not None and schedule.state():
        metadata["schedule"] = json.dumps(schedule.state())
    aside = path.with_suffix(".part")
    save_file(tensors, str(aside), metadata=metadata)
    aside.replace(path)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    criterion: nn.Module | None = None,
    schedule: Schedule | None = None,
) -> int:
    """Load what `save_checkpoint` wrote, in place, and return the number of epochs done."""
    weights: dict[str, dict[str, Tensor]] = {"network": {}, "criterion": {}}
    states: dict[int, dict[str, Tensor]] = {}
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118  # not a mapping
            kind, _, rest = key.partition("/")
            if kind in weights:
                weights[kind][rest] = file.get_tensor(key)
            else:
                index, _, name = rest.partition("/")
                states.setdefault(int(index), {})[name] = file.get_tensor(key)
    network.load_state_dict(weights["network"])
    if criterion is not None:
        criterion.load_state_dict(weights["criterion"])
    if optimizer is not None:
        # The fused step goes through memory as it lies: moments must lie as their parameter does.
        for index, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"]):
            for name, value in states.get(index, {}).items():
                if value.shape == parameter.shape:
                    states[index][name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    if schedule is not None:
        schedule.restore(json.loads(metadata.get("schedule", "{}")))
    return int(metadata["epoch"])


class _Batches(Sampler[list[int]]):
    """Sample numbers of each of the steps; every process takes its share of the same global batch."""

    def __init__(self, recipe: Recipe, steps: range, rank: int, processes: int) -> None:
        if recipe.batch % processes:
            raise InputError(
                f"a batch of {recipe.batch} cannot be shared evenly among {processes} processes; "
                "start a number that divides it"
            )
        self.steps = steps
        self.batch, self.rank, self.processes = recipe.batch, rank, processes

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield list(range(step * self.batch + self.rank, (step + 1) * self.batch, self.processes))


def _has_two_planes(network: nn.Module, image: Tensor) -> bool:
    """Whether a 3D convolution would see two planes along z.

    Of such a one PyTorch (2.13 to 2.15 at least) computes a wrong weight gradient in bfloat16 on a CPU, infinite
    at times.
    """
    if not any(isinstance(module, nn.Conv3d) for module in network.modules()):
        return False
    found: list[bool] = []
    shadow = copy.deepcopy(network).to("meta")
    for module in shadow.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].shape[2] == 2))
    shadow(torch.empty(1, *image.shape, device="meta"))
    return any(found)


def _memory_format(network: nn.Module) -> torch.memory_format:
    has_3d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    return torch.channels_last_3d if has_3d else torch.channels_last


def _batches(dataset: Dataset[Sample], recipe: Recipe, steps: range, fabric: Fabric, workers: int) -> Iterator[Sample]:
    """The batch of each step, on the device."""
    batches = _Batches(recipe, steps, fabric.global_rank, fabric.world_size)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    return iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))  # type: ignore[arg-type]  # untyped


def _bar(hidden: bool) -> Progress:
    """Progress on a terminal."""
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=hidden or not sys.stderr.isatty())
