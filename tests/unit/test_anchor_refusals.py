"""What the anchor engine cannot do it refuses by name, in one line with what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model
from refusals import refuses
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerControl, TrainerState, TrainingArguments

from asft import Anchor, AsFTCallback, FullAsFTCallback
from asft.anchor.building import build_form
from asft.anchor.callback import check_training
from asft.anchor.forms import AnchoredModule
from asft.anchor.penalty import FullPenalty, Penalty, _room
from asft.anchor.sharding import Sharding
from asft.anchor.spec import AnchorSpec

TARGETS = ["q_proj", "v_proj"]


def tiny(**settings: object) -> LlamaForCausalLM:
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, **settings))


def anchor_for(names: list[str], o: int = 8, i: int = 8) -> Anchor:
    form, _ = build_form(torch.randn(o, i), AnchorSpec(), "m")
    return Anchor([AnchoredModule(name, o, i, 1.0, form) for name in names])


@pytest.fixture
def anchor() -> Anchor:
    return anchor_for([f"model.layers.0.self_attn.{target}" for target in TARGETS])


def lora(targets: list[str] = TARGETS, **settings: object) -> nn.Module:
    return get_peft_model(tiny(), LoraConfig(r=2, target_modules=targets, **settings))


def experts() -> nn.Module:
    """A parameter that is no linear module's weight, adapted."""
    model = nn.Module()
    model.block = nn.Module()
    model.block.gate = nn.Parameter(torch.zeros(3, 8, 8))
    model.block.forward = lambda x: x
    return get_peft_model(model, LoraConfig(r=2, target_modules=[], target_parameters=["gate"]))


def with_bias() -> nn.Module:
    return get_peft_model(tiny(attention_bias=True), LoraConfig(r=2, target_modules=TARGETS, lora_bias=True))


def other(config: type) -> nn.Module:
    more = {"total_step": 10} if config is AdaLoraConfig else {"feedforward_modules": []}
    return get_peft_model(tiny(), config(target_modules=TARGETS, **more))


def bare(adapted: nn.Module) -> nn.Module:
    inner: nn.Module = adapted.base_model.model
    del inner.peft_config
    return inner


def added(init: str) -> nn.Module:
    """Adapted by transformers, without a model of PEFT's around it."""
    model = tiny()
    model.add_adapter(LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=init))
    return model


def mixed(init: str) -> nn.Module:
    return get_peft_model(tiny(), LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=init), mixed=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((partial(make, "pissa"), "'default' has init_lora_weights='pissa', which moves") for make in (added, mixed)),
        (lambda: lora(use_dora=True), "The adapter 'default' uses DoRA: its update is not BA"),
        (lambda: lora(init_lora_weights="mica"), "init_lora_weights='mica'"),
        (lambda: lora(init_lora_weights="pissa"), "init_lora_weights='pissa', which moves part of the base weight"),
        (lambda: lora(init_lora_weights="olora"), "init_lora_weights='olora'"),
        (lambda: lora(layer_replication=[(0, 1), (0, 1)]), "uses layer_replication"),
        (lambda: other(AdaLoraConfig), "has peft_type=ADALORA: only LORA is supported"),
        (lambda: other(IA3Config), "has peft_type=IA3: only LORA is supported"),
        # Layers alone, without a configuration.
        (lambda: bare(other(AdaLoraConfig)), "Adapter layer SVDLinear at 'model.layers.0.self_attn.q_proj'"),
        (lambda: bare(other(IA3Config)), "is not supported: its update is not BA; use LoRA"),
        (lambda: lora([*TARGETS, "embed_tokens"]), "LoRA on Embedding at 'model.embed_tokens' is not supported: only"),
        (experts, "uses target_parameters"),
        (tiny, "LlamaForCausalLM has no active LoRA layer: wrap it with get_peft_model"),
        (with_bias, "uses lora_bias: its update is not BA"),
        (lambda: bare(with_bias()), "lora_bias is not supported (layer 'model.layers.0.self_attn.q_proj')"),
    ],
)
def test_models_that_are_not_adapted_by_lora_on_linears(
    anchor: Anchor, make: Callable[[], nn.Module], message: str
) -> None:
    with refuses(message):
        Penalty(anchor, make())


@pytest.mark.parametrize("name", ["default", "safe"])
def test_merged_adapter(anchor: Anchor, name: str) -> None:
    model = lora()
    if name != "default":
        model.add_adapter(name, LoraConfig(r=2, target_modules=TARGETS))
        model.set_adapter(name)
    model.merge_adapter([name])
    with refuses("has its adapter merged into the base weight"):
        Penalty(anchor, model)
    model.unmerge_adapter()
    penalty = Penalty(anchor, model)
    assert len(penalty.names) == 2
    penalty.add_gradients(1.0)
    model.merge_adapter([name])  # as a callback may between steps
    with refuses("has its adapter merged into the base weight"):
        penalty.add_gradients(1.0)


def test_what_is_trained_beside_lora_is_no_obstacle(anchor: Anchor) -> None:
    assert len(Penalty(anchor, lora(trainable_token_indices=[1, 2])).names) == 2
    assert len(Penalty(anchor, lora(modules_to_save=["lm_head"])).names) == 2
    injected = tiny()
    injected.add_adapter(LoraConfig(r=2, target_modules=TARGETS))
    assert len(Penalty(anchor, injected).names) == 2
    inside = get_peft_model(torch.compile(tiny()), LoraConfig(r=2, target_modules=TARGETS))
    for compiled in (inside, torch.compile(lora())):
        assert Penalty(anchor, compiled).names == tuple(anchor)


def test_wrapped_layers_keep_their_modules_names(anchor: Anchor) -> None:
    """As accelerate does under FSDP2 with activation_checkpointing, and whoever compiles layer by layer."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for wrap in (checkpoint_wrapper, torch.compile, lambda layer: torch.compile(checkpoint_wrapper(layer))):
        full, adapted = tiny(), lora()
        for layers in (full.model.layers, adapted.base_model.model.model.layers):
            layers[0] = wrap(layers[0])
        full.model.layers[0].self_attn.q_proj = wrap(full.model.layers[0].self_attn.q_proj)
        assert FullPenalty(anchor, full).norms().penalty == 0
        assert Penalty(anchor, adapted).names == tuple(anchor)


def test_several_active_adapters(anchor: Anchor) -> None:
    model = lora()
    model.add_adapter("second", LoraConfig(r=2, target_modules=TARGETS))
    model.base_model.set_adapter(["default", "second"])
    with refuses("has 2 active adapters ['default', 'second']: activate one"):
        Penalty(anchor, model)


def test_anchor_that_does_not_fit() -> None:
    q, v = (f"model.layers.0.self_attn.{target}" for target in TARGETS)
    with refuses("The anchor covers no LoRA module: it has 'model.layers.0.mlp.up_proj'"):
        Penalty(anchor_for(["model.layers.0.mlp.up_proj"]), lora())
    with refuses(f"1 of 2 LoRA modules have no anchor, first '{v}'"):
        Penalty(anchor_for([q]), lora())
    with refuses("1 of 3 anchored modules have no LoRA, first 'model.layers.9.self_attn.q_proj'"):
        Penalty(anchor_for([q, v, "model.layers.9.self_attn.q_proj"]), lora())
    assert Penalty(anchor_for([q]), lora(), allow_partial=True).names == (q,)
    with refuses(f"Module '{q}' is 8×8 in the model but 6×8 in the anchor"):
        Penalty(anchor_for([q, v], o=6), lora())


def test_sharded_parameters() -> None:
    """FSDP2 shards by rows; one process is enough to make what other ways of sharding leave."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        rows, columns = (distribute_tensor(torch.zeros(4, 4), mesh, [Shard(d)], src_data_rank=None) for d in (0, 1))
        assert Sharding.of({"q": [rows, rows]})
        with refuses("Module 'q' is sharded as (Shard(dim=1),): tensor parallelism is not supported"):
            Sharding.of({"q": [columns]})
        for held in ([torch.zeros(4, 4), rows], [rows, torch.zeros(4, 4)]):  # B column-wise, and A where it was
            with refuses("Module 'q' has one weight sharded and another whole or elsewhere: tensor parallelism"):
                Sharding.of({"q": held})
        with refuses("Modules 'q' and 'v' are sharded over different processes"):
            Sharding.of({"q": [rows], "v": [torch.zeros(4, 4)]})
    finally:
        destroy_process_group()
    with refuses("Module 'q' is sharded (Tensor of shape (0,)): FSDP1 and ZeRO-3"):
        Sharding.of({"q": [torch.zeros(0)]})


def test_an_anchor_that_a_gpu_has_no_room_for(anchor: Anchor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asft.anchor.penalty.free_memory", lambda device: 100)
    name = next(iter(anchor))
    assert _room(anchor, [(name, torch.device("cpu"))]) == anchor[name].memory
    with refuses("The anchor takes 0.0 GiB of cuda:1, which has 0.0 free: build it by form='rank_k'"):
        _room(anchor, [(name, torch.device("cuda", 1))])


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fp16", True, "fp16=True is not supported"),
        ("deepspeed", {"zero_optimization": {"stage": 3}}, "deepspeed is not supported: it steps inside backward"),
        ("optim", "galore_adamw_layerwise", "optim='galore_adamw_layerwise' is not supported"),
        ("optim", "lomo", "optim='lomo' is not supported"),
    ],
)
def test_training_setups(arguments: TrainingArguments, field: str, value: object, message: str) -> None:
    check_training(arguments, object())
    setattr(arguments, field, value)  # set afterwards: most of these need hardware to be constructed
    with refuses(message):
        check_training(arguments, object())


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("FSDP", "FSDP1 is not"),
        ("DEEPSPEED", "deepspeed is not"),
        ("NO", "fp16 from accelerate (--mixed_precision, ACCELERATE_MIXED_PRECISION) is not"),
    ],
)
def test_what_accelerate_was_told_without_the_trainer(
    arguments: TrainingArguments, strategy: str, message: str
) -> None:
    """`accelerate launch` may choose FSDP1 or DeepSpeed, and a hand-made accelerator a scaler of gradients."""
    from accelerate import Accelerator, DistributedType
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState

    Accelerator(cpu=True)  # sets the state that its optimiser wrapper reads
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    check_training(arguments, AcceleratedOptimizer(plain))
    scaler = torch.amp.GradScaler("cpu") if strategy == "NO" else None
    optimizer = AcceleratedOptimizer(plain, scaler=scaler)
    state = AcceleratorState()
    state.distributed_type, state.fsdp_plugin = DistributedType(strategy), SimpleNamespace(fsdp_version=1)
    try:
        with refuses(message):
            check_training(arguments, optimizer)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_refusal_comes_before_the_first_step(anchor: Anchor, arguments: TrainingArguments) -> None:
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}]
    callbacks = [AsFTCallback(anchor, 1.0)]
    trainer = Trainer(model=lora(use_dora=True), args=arguments, train_dataset=rows, callbacks=callbacks)
    with refuses("uses DoRA"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("same", [True, False])
def test_a_second_penalty_on_the_same_modules_is_refused(
    anchor: Anchor, arguments: TrainingArguments, same: bool
) -> None:
    first, model = AsFTCallback(anchor, 1.0), lora()
    second = first if same else AsFTCallback(anchor, 0.5)
    for _ in range(2):  # a trainer may be trained again
        state = TrainerState()
        first.on_train_begin(arguments, state, TrainerControl(), model=model, optimizer=None)
        with refuses("already have the penalty of another callback"):
            second.on_train_begin(arguments, state, TrainerControl(), model=model, optimizer=None)


@pytest.mark.parametrize("callback", [AsFTCallback, FullAsFTCallback])
def test_what_is_no_anchor_is_told_at_once(callback: type) -> None:
    with pytest.raises(TypeError, match=r"anchor=None is no Anchor; make one by Anchor\.build"):
        callback(None, 1.0)


def test_full_parameter_training_does_not_resume(anchor: Anchor, arguments: TrainingArguments) -> None:
    begun, callback = TrainerState(global_step=7), FullAsFTCallback(anchor, 1.0)
    with refuses("resume_from_checkpoint at step 7 is not supported"):
        callback.on_train_begin(arguments, begun, TrainerControl(), model=tiny(), optimizer=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: AsFTCallback(a, -1.0), "lam=-1.0 must be a finite number of at least 0"),
        (lambda a: AsFTCallback(a, float("nan")), "lam=nan must be a finite number of at least 0"),
        (lambda a: AsFTCallback(a, "1"), "lam='1' must be a finite number of at least 0"),
        (lambda a: FullAsFTCallback(a, float("inf")), "lam=inf must be a finite number of at least 0"),
        (lambda a: AsFTCallback(a, 1.0, scale="big"), "scale='big' is unknown; allowed: raw, effective"),
        (lambda a: AsFTCallback(a, 1.0, accumulation="epoch"), "accumulation='epoch' is unknown; allowed: step, micro"),
        (lambda a: Penalty(a, lora(), scale="big"), "scale='big' is unknown; allowed: raw, effective"),
        (lambda a: AnchorSpec("asfd"), "variant='asfd' is unknown; allowed: asft, projector, parallel, random"),
        (lambda a: AnchorSpec(form="dense"), "form='dense' is unknown; allowed: auto, gram, factor, rank_k"),
        (lambda a: AnchorSpec("projector"), "rank=None: form='rank_k' and variant='projector' need one of"),
        (lambda a: AnchorSpec(form="rank_k", rank=0), "rank=0: form='rank_k' and variant='projector' need one of"),
        (lambda a: AnchorSpec(rank=4), "rank=4 has no effect on form='auto'"),
        (lambda a: AnchorSpec("projector", form="gram", rank=2), "form='gram' does not fit variant='projector'"),
        (lambda a: AnchorSpec(form="rank_k", rank=8).check_shapes({"m": (8, 9)}), "rank=8 is not below 8"),
        (lambda a: Anchor([]), "An anchor needs at least one module"),
    ],
)
def test_settings(anchor: Anchor, call: object, message: str) -> None:
    with refuses(message):
        call(anchor)
