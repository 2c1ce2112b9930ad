"""The training loop of teacher and student: resumable after a kill at any moment, on a CPU, a GPU, or many.

Many: torchrun --nproc-per-node N -m fusionproxy_ros.distill.train ... ; each process draws batches of its own.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from fusionproxy_ros.distill.data import TensorFileError, read_tensors, write_tensors

WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.995
SAVE_EVERY = 50  # steps
Model = TypeVar("Model", bound=nn.Module)
# (model, generator of this step's randomness, device) -> scalar loss
LossOf = Callable[[nn.Module, np.random.Generator, torch.device], Tensor]


def device_here() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def process_here() -> tuple[int, int]:
    """(rank, number of processes) as torchrun set them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def fit(
    model: Model,
    loss_of: LossOf,
    steps: int,
    seed: int,
    learning_rate: float,
    state: Path,
    settings: dict,
) -> Model:
    """The model, which then holds the running average over `steps` steps of AdamW.

    The learning rate is warmed up, and then falls to zero as a cosine does.

    state: file that holds the run (model, average, optimiser) every SAVE_EVERY steps, and from which a run that
        was killed goes on; one whose `settings` differ is refused with TensorFileError. Beside it, in a .log, a
        line for each. A step's randomness comes from (seed, step, process) alone: a broken run and an unbroken
        one see the same batches.
    """
    rank, world = process_here()
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = device_here()
    model = model.to(device)
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_average)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=1e-4)
    settings = settings | {"steps": steps, "seed": seed, "learning_rate": learning_rate, "processes": world}
    done = _resume(state, settings, model, average, optimiser)
    trained = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    state.parent.mkdir(parents=True, exist_ok=True)
    log = state.with_suffix(".log")
    recent: list[float] = []
    if rank == 0 and not done:
        log.write_text(json.dumps(settings) + "\n")
    bar = tqdm(total=steps, initial=done, desc=state.stem, unit="step", disable=rank > 0)
    for step in range(done, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _share(step, steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(trained, np.random.default_rng((seed, step, rank)), device)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        recent.append(loss.item())
        bar.update()
        if rank == 0 and ((step + 1) % SAVE_EVERY == 0 or step + 1 == steps):
            _save(state, settings, model, average, optimiser, step + 1)
            bar.set_postfix(loss=f"{np.mean(recent):.4f}")
            with open(log, "a") as file:
                print(f"step {step + 1} loss {np.mean(recent):.5f}", file=file)
            recent = []
    bar.close()
    model.load_state_dict(average.module.state_dict())
    return model.eval().cpu()


def _share(step: int, steps: int) -> float:
    """Of the learning rate: a warm-up, then a cosine down to zero."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def _average(average: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
    """Exponential, of a decay that starts small: the first steps are soon forgotten."""
    return torch.lerp(average, new, max(1 - AVERAGE_DECAY, 9 / (10 + int(updates))))


def _save(
    path: Path, settings: dict, model: nn.Module, average: nn.Module, optimiser, steps_done: int
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, parameter in enumerate(model.parameters()):
        tensors |= {f"adam.{index}.{key}": value for key, value in optimiser.state[parameter].items()}
    write_tensors(path, tensors, {"settings": json.dumps(settings), "steps_done": str(steps_done)})


def _resume(path: Path, settings: dict, model: nn.Module, average: nn.Module, optimiser) -> int:
    """Load the run's state, if there is one; the number of steps done."""
    if not path.exists():
        return 0
    tensors, metadata = read_tensors(path)
    if metadata.get("settings") != json.dumps(settings):
        raise TensorFileError(
            f"{path} is of a run with {metadata.get('settings')}, this one has {json.dumps(settings)}: "
            "give another folder, or delete it"
        )
    for prefix, module in (("model.", model), ("average.", average)):
        module.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
    for index, parameter in enumerate(model.parameters()):
        adam = {key: tensors[f"adam.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {k: t if k == "step" else t.to(parameter) for k, t in adam.items()}
    return int(metadata["steps_done"])
