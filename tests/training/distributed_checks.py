# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""What several processes must do together; `test_distributed.py` starts this by torchrun.

torchrun --nproc_per_node 2 tests/training/distributed_checks.py (nonfinite|fsdp|bound|prior) FOLDER
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fqgan_hf.modeling.configuration_code_diffusion import CodeDiffusionConfig
from fqgan_hf.modeling.configuration_far import FARConfig
from fqgan_hf.modeling.modeling_code_diffusion import CodeDiffusionTransformer
from fqgan_hf.modeling.modeling_far import FARForImageGeneration
from fqgan_hf.modeling.quantizer_regularized import RegularizedQuantizer
from fqgan_hf.modeling.scheduling_code_diffusion import CodeDiffusionScheduler
from fqgan_hf.training.code_diffusion.model import trainable_code_diffusion
from fqgan_hf.training.common.checkpointing import unsharded, whole
from fqgan_hf.training.common.loop import GuardedUpdate, build_optimizer, ema_weights, evaluation_mode
from fqgan_hf.training.far.trainable import TrainableGenerator
from fqgan_hf.training.fqgan.regularization import prepare_quantizer


ARGS = SimpleNamespace(
    adam_weight_decay=0.05,
    adam_beta1=0.9,
    adam_beta2=0.95,
    adam_epsilon=1e-8,
    max_grad_norm=1.0,
    max_nonfinite_steps=2,
    learning_rate=1e-2,
)
CONFIG = {
    "codebook_size": 16,
    "num_classes": 4,
    "grid_height": 2,
    "grid_width": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_head_layers": 1,
    **dict.fromkeys(("token_dropout", "residual_dropout", "ffn_dropout", "class_dropout"), 0.0),
}


def build() -> FARForImageGeneration:
    torch.manual_seed(0)
    return FARForImageGeneration(FARConfig(**CONFIG)).train()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(4, (8,), generator=generator)
    return labels, torch.randint(16, (8, 6, 2), generator=generator)


def nonfinite(folder: Path) -> None:
    """One process alone has a loss that is no number: all skip the step, none of them moves, all go on."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(3, 1)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, ARGS, ARGS.learning_rate))
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.ConstantLR(optimizer))
    update = GuardedUpdate(accelerator, ARGS)
    skipped = []
    try:
        for step in range(20):
            before = model.module.weight.detach().clone()
            inputs = torch.randn(4, 3)
            if step in (1, 4, 6) and accelerator.process_index == step % 2:
                inputs[2, 1] = torch.inf if step == 4 else torch.nan
            with accelerator.accumulate(model):
                accelerator.backward(model(inputs).square().mean())
                scalars = update(model, optimizer, scheduler, torch.arange(4))
            skipped.append(scalars["skipped_steps"].item())
            assert torch.equal(before, model.module.weight) == bool(skipped[-1])
    except FloatingPointError as error:
        assert "not finite in 3 steps" in str(error) and "[0, 1, 2, 3]" in str(error)
    assert skipped == [0, 1, 0, 0, 1, 0] and update.num_skipped == 3, skipped
    weights = accelerator.gather(model.module.weight.detach())
    assert weights.isfinite().all() and torch.equal(weights[0], weights[1])


def fsdp(folder: Path) -> None:
    """Shard as the FSDP2 configuration says, train, and save: a checkpoint by shards, whole weights, the average."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    model = build()
    mesh = init_device_mesh("cpu", (size,))
    for module in model.modules():
        if type(module).__name__ == "TransformerLayer":
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = build_optimizer(model, ARGS, ARGS.learning_rate)
    ema = EMAModel(model.parameters(), decay=0.5)
    losses = []
    for step in range(3):
        labels, codes = (tensor[rank::size] for tensor in batch(step))
        loss = model(class_labels=labels, codes=codes, labels=codes).loss
        loss.backward()
        norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), ARGS.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        loss = loss.detach() / size
        dist.all_reduce(loss)
        losses.append((loss.item(), norm.item()))
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / "shards")
    complete = unsharded(model)
    averages = [whole(tensor) for tensor in ema.shadow_params]
    with ema_weights(ema, model):
        averaged = unsharded(model)
    restored = unsharded(model)
    if rank == 0:
        complete.save_pretrained(folder / "whole")
        averaged.save_pretrained(folder / "averaged")
        assert all(torch.equal(*pair) for pair in zip(averages, averaged.parameters(), strict=True))
        assert all(torch.equal(*pair) for pair in zip(complete.parameters(), restored.parameters(), strict=True))
        save_file({str(i): tensor for i, tensor in enumerate(averages)}, folder / "ema.safetensors")
        (folder / "losses.json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


def build_diffusion() -> TrainableGenerator:
    torch.manual_seed(0)
    model = CodeDiffusionTransformer(CodeDiffusionConfig(**CONFIG, num_train_timesteps=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return trainable_code_diffusion(model.train(), CodeDiffusionScheduler(16, 4))


def held_out_bound(generator: TrainableGenerator, step: int) -> torch.Tensor:
    labels, codes = batch(step)
    with torch.no_grad(), evaluation_mode(generator.model) as model:
        return generator.held_out_losses(model, codes, {"class_labels": labels}, torch.arange(8))


def bound(folder: Path) -> None:
    """A diffusion generator whose weights are divided: its validation, and the times that each process draws from."""
    accelerator = Accelerator(cpu=True)
    rank, size = accelerator.process_index, accelerator.num_processes
    generator = build_diffusion()
    model, mesh = generator.model, init_device_mesh("cpu", (size,))
    for module in model.modules():
        if type(module).__name__ == "TransformerLayer":
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    labels, codes = batch(0)
    generator.training_loss(model, codes[rank::size], {"class_labels": labels[rank::size]}).loss.backward()
    figures = {"bound": held_out_bound(generator, 1), "counts": generator.stateful[0].counts}
    save_file(figures, folder / f"bound-{rank}.safetensors")
    accelerator.end_training()


def build_quantizer() -> tuple[RegularizedQuantizer, torch.Tensor]:
    """A quantizer without chance, and latents of a batch of eight."""
    torch.manual_seed(0)
    quantizer = RegularizedQuantizer(2, 16, 4, linear_dim=6, mask_ratio=0.0).train()
    return quantizer, torch.randn(8, 2, 6, 3, 3)


def prior_loss(quantizer: torch.nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """With the reconstruction's share, so that the two are weighed against each other as in a training."""
    output = quantizer(latents, return_losses=True)
    return output.losses.prior.sum() + output.latents.square().mul(torch.arange(4.0).view(4, 1, 1)).mean()


def prior(folder: Path) -> None:
    """Each process has half of the batch, and the prior term is that of all of it."""
    accelerator = Accelerator(cpu=True)
    quantizer, latents = build_quantizer()
    quantizer = accelerator.prepare(quantizer)
    bare = accelerator.unwrap_model(quantizer)
    prepare_quantizer(accelerator, bare, SimpleNamespace(prior=None))
    mine = latents[accelerator.process_index :: accelerator.num_processes]
    loss = prior_loss(quantizer, mine)
    accelerator.backward(loss)
    loss = accelerator.reduce(loss.detach(), "mean")
    if accelerator.is_main_process:
        gradients = {name: parameter.grad for name, parameter in bare.named_parameters()}
        save_file({**gradients, "loss": loss}, folder / "prior.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"nonfinite": nonfinite, "fsdp": fsdp, "bound": bound, "prior": prior}[sys.argv[1]](Path(sys.argv[2]))
