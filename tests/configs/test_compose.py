"""Every YAML composes and types; every mistake ends as one line that names the key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from asft.cells.build import build_job
from asft.cells.compose import config_dir, enumerate_all, enumerate_cells, one_by_one, plain
from asft.config import ConfigError
from asft.report.collect import table_spec

PAIR = ["model.base=a", "model.aligned=b"]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


@pytest.mark.slow
def test_an_unknown_table_of_the_paper_is_told() -> None:
    sweep = enumerate_cells(["experiment=demo", "method=sft", "experiment.paper_table=table99"], sweep=True)
    with pytest.raises(ConfigError, match=r"paper_table=table99: unknown; did you mean table\d\? Allowed: table1"):
        table_spec(sweep, "")


def test_an_experiment_of_several_sweeps_has_the_cells_of_each(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "union.yaml").write_text("""# @package _global_
experiment:
  name: union
  title: union
  sweeps:
    weaker: {method: sft, training.lr: "1e-4,5e-5"}
    stronger: {method: "asft,l2", method.lam: "1,3"}
hydra: {sweeper: {params: {seed: "0,1"}}}
""")
    words = ["experiment=union", f"hydra.searchpath=[file://{tmp_path}]"]
    sweep = enumerate_cells(words, sweep=True)
    assert len({job.key for job in sweep.cells}) == len(sweep.cells) == 2 * (2 + 4)
    assert sweep.axes["method"] == ["sft", "asft", "l2"]
    assert sweep.axes["training.lr"] == ["0.0001", "5e-05"]
    assert sweep.cells[-1].axes == {"seed": "1", "method": "l2", "method.lam": "3"}
    (alone,) = enumerate_cells(["method=l2", "method.lam=3", "seed=1"], sweep=False).cells
    assert sweep.cells[-1].key == alone.key
    one = enumerate_cells([*words, "method=l2", "seed=1"], sweep=True)
    assert [job.axes["method.lam"] for job in one.cells] == ["1", "3"]
    some = enumerate_cells([*words, "method.lam=3,10", "seed=0"], sweep=True)
    assert [job.axes.get("method.lam") for job in some.cells] == [None, None, "3", "3"], "other sweeps have no λ"
    with pytest.raises(ConfigError, match="none of the experiment's sweeps has such cells"):
        enumerate_cells([*words, "method=bea"], sweep=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "group", ["method", "attack", "jailbreak", "judge", "tracker", "training", "protocol", "dataset"]
)
def test_every_choice_types(group: str) -> None:
    extra = {"training": ["method=sft"], "jailbreak": ["model=pair", *PAIR]}.get(group, [])
    sweeps = [[f"{group}={','.join(name for name in choices(group) if name != 'safe_delta')}", *extra]]
    sweeps += [["method=safe_delta", "training=full"]] * (group == "method")
    for job in (job for words in sweeps for job in enumerate_cells(words, sweep=True).cells):
        part = job.tracker if group == "tracker" else getattr(job.cell, group)
        assert (part.source if group == "attack" else part.name) == job.axes.get(group, "safe_delta")


@pytest.mark.slow
@pytest.mark.parametrize("model", choices("model"))
def test_every_model_types(model: str, published: Path) -> None:
    extra = PAIR if model == "pair" else [f"data.root={published}"] if model.startswith("smollm2") else []
    cell = enumerate_cells([f"model={model}", *extra], sweep=False).cells[0].cell
    assert cell.model.name == model
    assert cell.training.lr == cell.model.recipe.lora_lr


def test_every_yaml_says_what_it_is_for() -> None:
    for path in config_dir().rglob("*.yaml"):
        lines = path.read_text().splitlines()
        comment = lines[1] if lines[0] == "# @package _global_" else lines[0]
        assert comment.startswith("# "), path


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["attack.p=1.5"], ["attack.p=1.5", "less than or equal to 1"]),
        (["attack.p=-0.1"], ["attack.p=-0.1", "greater than or equal to 0"]),
        (["attack.n=0"], ["attack.n=0", "greater than or equal to 1"]),
        (["method=asfft"], ["method=asfft", "asft", "safe_lora", "sft"]),
        (["dataset=agnwes"], ["dataset=agnwes", "agnews"]),
        (["model=llama9"], ["model=llama9", "tiny_llama"]),
        (["experiment=table99"], ["experiment=table99", "table2"]),
        (["attack.ratio=0.1"], ["attack.ratio", "source, p, n, mix"]),
        (["method.lamb=2"], ["method.lamb", "did you mean method.lam?"]),
        (["+attack.extra=1"], ["attack.extra", "unknown key", "source, p, n, mix"]),
        (["attack.mix=prepend"], ["attack.mix=prepend", "'replace' or 'append'"]),
        (["method.lam=high"], ["method.lam=high", "valid number"]),
        (["model=pair"], ["model.base", "must be given"]),
        (["attack=none", "attack.p=0.1"], ["attack.p=0.1", "attack=none"]),
        (["model=smollm2_135m"], ["data.root=null", "smollm2_135m"]),
        (["model.quantization=4bit", *PAIR, "model=pair", "training=full", "method=sft"], ["4bit", "training=lora"]),
        (["model.quantization=8bit", *PAIR, "model=pair", "protocol=official"], ["8bit", "protocol=clean"]),
        (["model=pair", *PAIR, "training=full", "method=sft"], ["model.dtype=bfloat16", "training.autocast=bfloat16"]),
        (["data.root=/somewhere"], ["data.root=/somewhere", "tiny_llama"]),
        (["jailbreak=dra"], ["jailbreak=dra", "tiny_llama", "real model"]),
        (["jailbreak=dra", "model=pair", *PAIR, "measure=epl"], ["jailbreak=dra", "measure=epl"]),
        (["jailbreak=artprompt", "jailbreak.words=0", "model=pair", *PAIR], ["jailbreak.words=0", "greater than"]),
        (["method=sft,asft"], ["method", "--multirun"]),
        (["data.root=/a,b"], ["data.root", "--multirun", "KEY='A,B'"]),
        (["method=[sft,asft]"], ["method=[sft,asft]", "one of aligned,", "-m method=A,B"]),
        (["attack=0.2"], ["attack=0.2", "one of advbench", "harmful"]),
        (["p=0.2"], ["p: unknown key", "did you mean attack.p?", "experiment", "measure"]),
        (["attack.p=0.1,"], ["attack.p=0.1,: cannot be read as KEY=VALUE"]),
        (["seed=${model.absent}"], ["seed: is taken from model.absent, which is not set; write `absent: …` into the"]),
        (["workers=0"], ["workers=0: input should be greater than or equal to 1, or input should be 'auto'"]),
        (["training.target_modules=[1]"], ["training.target_modules.0=1: input should be a valid string"]),
        (["model.recipe.epochs=0"], ["model.recipe.epochs=0: "]),
        (["lam=inf"], ["method.lam=inf: must be a finite number"]),
        (["training.alpha=inf"], ["training.alpha=inf: must be a finite number"]),
        (["method=safe_lora", "training=full"], ["training=full", "safe_lora"]),
        (["method=safe_lora_random", "method.threshold=0.3"], ["method.threshold=0.3", "method.mode=threshold"]),
        (["method=safe_lora", "method.mode=threshold", "method.number=3"], ["method.number=3", "method.mode=number"]),
        (["method._target_=os.system"], ["method._target_=os.system", "asft.methods.base.Method"]),
        (["attack.p=[0.1"], ["attack.p"]),
        (["model.name=../../x"], ["model.name=../../x", "allowed are letters a to z, digits"]),
        (["model.name=füchse"], ["model.name=füchse", "allowed are letters a to z, digits"]),
        (["method="], ["method=: unknown. Allowed: aligned, "]),
        (["exp=demo"], ["exp: unknown key; did you mean experiment?"]),
        (["+method=sft"], ["method: has a choice already; leave out the + before it"]),
        (["~method"], ["method: choose one by method=NAME"]),
        (["metrics=[]"], ["metrics=[]: has keys below it, which no value can take the place of"]),
        (["seed=4294967296"], ["seed=4294967296", "less than 4294967296"]),
        (["attack.p=true"], ["attack.p=true: must be a number"]),
        (["model=pair", "model.base=", "model.aligned=x"], ["model.base=: must not be empty"]),
        (["training.target_modules=q_proj"], ["training.target_modules=q_proj: must be a list, e.g. [A,B]"]),
        (["training.target_modules=[]"], ["training.target_modules=[]: must not be empty"]),
        (["outputs=[a,b]"], ["outputs=['a', 'b']: must be one path"]),
        (["outputs=/dev/null/x"], ["outputs=/dev/null/x: /dev/null is a file; name a folder"]),
        (["hydra.searchpath=[file:///nowhere]"], ["hydra.searchpath=[file:///nowhere]: /nowhere: no such folder"]),
        (["model.name=a/b"], ["model.name=a/b", "allowed are letters a to z"]),
        (["experiment=table2", "experiment.name=../../x"], ["experiment.name=../../x", "allowed are letters a to z"]),
        (["experiment=table2", "experiment.name=.."], ["experiment.name=..", "allowed are letters a to z"]),
    ],
)
def test_a_mistake_names_key_and_allowed_values(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        enumerate_cells(overrides, sweep=False)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_two_experiments_are_no_table() -> None:
    with pytest.raises(ConfigError, match="experiment=demo,table2: name one at a time here"):
        enumerate_cells(["experiment=demo,table2"], sweep=True)


def test_several_experiments_are_the_cells_of_each() -> None:
    names, rest = ["table5", "table1", "frontier"], ["model.seed=1", "lam=0.3"]
    together = enumerate_all([rest[0], f"experiment={','.join(names)},table5", rest[1]])
    apart = [enumerate_cells([f"experiment={name}", *rest], sweep=True) for name in names]
    assert [job.key for job in together.cells] == [job.key for sweep in apart for job in sweep.cells]
    assert [job.experiment and job.experiment.name for job in together.cells[:1]] == ["table5"]
    assert together.overrides == apart[0].overrides
    for sweep in apart:
        for axis, values in sweep.axes.items():
            assert set(values) <= set(together.axes[axis])
    assert enumerate_all(["experiment=table5"]) == enumerate_cells(["experiment=table5"], sweep=True)
    with pytest.raises(ConfigError, match="table55"):
        enumerate_all(["experiment=table5,table55"])
    with pytest.raises(ConfigError, match=r"^experiment=table7: measure.prompts=80"):
        enumerate_all(["experiment=table5,table7", "evaluation.n_harmful=40"])


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=demo,table2", "seed=3"],
        ["experiment=demo, table2", "seed=3"],
        ["experiment='demo','table2'", "seed=3"],
        ["experiment=demo", "seed=3", "experiment=table2,demo"],
        ["experiment=choice(demo,table2)", "seed=3"],
    ],
)
def test_experiments_are_named_in_any_way_that_hydra_reads(words: list[str]) -> None:
    assert one_by_one(words) == [["experiment=demo", "seed=3"], ["experiment=table2", "seed=3"]]


def test_an_experiment_named_twice_is_one_and_two_are_told_where_one_is_wanted() -> None:
    assert one_by_one(["experiment=demo,demo", "seed=3"]) == [["experiment=demo", "seed=3"]]
    assert one_by_one(["seed=3", "experiment=demo"]) == [["seed=3", "experiment=demo"]]
    assert one_by_one(["seed=3"]) == [["seed=3"]]
    with pytest.raises(ConfigError, match="experiment is named twice; name one at a time here"):
        enumerate_cells(["experiment=demo", "experiment=table2"], sweep=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a: [1\n", "a YAML file cannot be read: .*mine.yaml"), (b"\xff\xfe\xff", "is not UTF-8 text")],
)
def test_a_broken_yaml_is_told_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        enumerate_cells([f"hydra.searchpath=[file://{tmp_path}]", "method=mine"], sweep=False)


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("model.base_revision", ["12e4567", "0123456", "1_000", "nan", "true", "null"]),
        ("model.base", ["/runs/lr=1e-4/base", "~/a (2)/b", "/a:b%c", "5e3"]),
        ("model.name", ["7e5"]),
    ],
)
def test_a_text_that_reads_as_something_else_is_kept_as_written(key: str, texts: list[str]) -> None:
    def kept(value: str, *, sweep: bool) -> list[str]:
        cells = enumerate_cells([*given, f"{key}={value}"], sweep=sweep).cells
        return [getattr(job.cell.model, key.partition(".")[2]) for job in cells]

    given = ["model=pair", *(f"model.{side}=org/{side}" for side in ("base", "aligned") if key != f"model.{side}")]
    assert [kept(text, sweep=False) for text in texts] == [[text] for text in texts]
    assert kept(",".join([*texts, "other"]), sweep=True) == [*texts, "other"]


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert enumerate_cells(["outputs=~/out"], sweep=False).cells[0].options.outputs == Path("/home/me/out")


def test_command_line_axes_replace_those_of_the_experiment_and_seeds_are_one() -> None:
    sweep = enumerate_cells(["experiment=table2", "method=sft,asft", "attack.p=0.1", "seed=0,1,2"], sweep=True)
    assert sweep.axes == {"method": ["sft", "asft"], "attack.p": ["0.1"], "seed": ["0", "1", "2"]}
    assert [(job.cell.attack.p, job.cell.seed) for job in sweep.cells] == [(0.1, seed) for seed in (0, 1, 2)] * 2


def test_plain_configuration_holds_everything() -> None:
    tree = enumerate_cells(["method.lam=2"], sweep=False).cells[0].plain()
    assert (tree["method"]["name"], tree["method"]["lam"], tree["attack"]["p"]) == ("asft", 2.0, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [
            "experiment=table2",
            "method=sft,asft",
            "attack.p=0,0.1",
            "training.target_modules=[q_proj],[v_proj]",
        ],
        [
            "experiment=table4",
            "model=tiny_llama,tiny_qwen2",
            "method=asft,safe_lora",
            "attack=beavertails",
            "lam=0.1,1",
        ],
        ["++model.recipe.task_max_new_tokens=40,50", "method=sft,bea", "attack.n=8,9"],
        ["training=lora,full", "method=sft", "training.epochs=1,2"],
        ["experiment=table2", "method=sft,asft", "lam=1,2", "attack.p=0,0.1"],
        ["method=sft,asft", "evaluation.n_harmful='${dataset.n_test}',20", "dataset.n_test=30,40"],
    ],
)
def test_a_sweep_composes_as_hydra_composes_each_cell(overrides: list[str]) -> None:
    from hydra import compose, initialize_config_dir

    cells = enumerate_cells(overrides, sweep=True).cells
    assert len(cells) > 3
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for item in [*cells[::3], cells[-1]]:
            axes = [f"{key}={value}" for key, value in item.axes.items()]
            kept = [text for text in overrides if text.partition("=")[0] not in item.axes]
            assert item == build_job(plain(compose("config", overrides=[*kept, *axes])), item.axes)


def test_enumerating_a_table_takes_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    import asft.cells.compose

    calls = []
    real = asft.cells.compose._compose
    monkeypatch.setattr(asft.cells.compose, "_compose", lambda *a: calls.append(a) or real(*a))
    methods, ratios = "sft,asft,l2,safe_lora", ",".join(str(i / 20) for i in range(10))
    sweep = enumerate_cells(["experiment=table2", f"method={methods}", f"attack.p={ratios}"], sweep=True)
    assert len(sweep.cells) == 40
    assert len({item.cell.attack.p for item in sweep.cells}) == 10
    assert len(calls) == 2, "the sweep's own, and one that holds every method"
