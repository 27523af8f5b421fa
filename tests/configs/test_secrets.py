"""A variable of the environment comes into a configuration only where it is named as no secret."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from refusals import refuses

from asft.cells.compose import enumerate_cells
from asft.commands.run import run
from asft.config import ConfigError

SECRET = "planted-5ecret"
WANDB = ["tracker=wandb"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracker.project=${oc.env:PLANTED}"],
        ["tracker.entity=env", "tracker.project='${oc.${tracker.entity}:PLANTED}'"],
        ["tracker.project='x-${oc.env:PLANTED,none}-y'"],
        ["tracker.entity=PLANTED", "tracker.project='${oc.env:${tracker.entity}}'"],
        ["outputs='${oc.decode:${oc.env:PLANTED}}'"],
        ["+judge.request={user:'${oc.env:PLANTED}'}", "judge=llm"],
        ["seed='${oc.env:PLANTED}'", "-m"],
    ],
)
def test_an_environments_variable_is_refused_unseen(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", SECRET)
    words = [*WANDB, *(text for text in overrides if text != "-m")]
    with pytest.raises(ConfigError, match=r"oc\.env:PLANTED.*public_env:PLANTED") as caught:
        enumerate_cells(words, sweep="-m" in overrides)
    assert SECRET not in str(caught.value)
    assert OmegaConf.create({"x": "${oc.env:PLANTED}"}).x == SECRET, "elsewhere in the process it is as it was"


@pytest.mark.parametrize("spelt", [SECRET, SECRET.encode().hex(), b64encode(SECRET.encode()).decode()])
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+judge.request.key={}", "judge.request.key"),
        ("+judge.request.headers=[a,{{x: 'Bearer {}'}}]", "judge.request.headers"),
        ("+judge.request.{}=1", "judge.request.***"),
        ("outputs=/tmp/{}", "outputs"),
        ("seed='){}", "seed"),
        ("hydra.job.name={}", "hydra.job.name"),
    ],
)
def test_a_secret_written_out_is_refused_unseen(
    override: str, key: str, spelt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASFT_PLANTED_TOKEN", SECRET)
    with refuses(": holds the value of the environment variable ASFT_PLANTED_TOKEN") as caught:
        enumerate_cells(["judge=llm", "judge.model=m", override.format(spelt.rstrip("="))], sweep=False)
    assert str(caught.value).startswith(key)
    assert spelt[4:-4] not in str(caught.value)
    with pytest.raises(ConfigError) as again:
        run(["judge=llm", override.format(spelt), "--cfg", "job"])
    assert spelt[4:-4] not in str(again.value)


def test_a_secret_in_a_yaml_file_is_refused_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASFT_PLANTED_TOKEN", SECRET)
    (tmp_path / "judge").mkdir()
    request = f"request: {{headers: [a, {{x: Bearer {SECRET}}}]}}"
    (tmp_path / "judge" / "mine.yaml").write_text(f"defaults: [llm, _self_]\nmodel: m\n{request}\n")
    with refuses("judge.request.headers.1.x: holds the value of the environment variable ASFT_PLANTED_TOKEN"):
        enumerate_cells([f"hydra.searchpath=[file://{tmp_path}]", "judge=mine"], sweep=False)


def test_a_configuration_that_is_asked_for_shows_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASFT_PLANTED_TOKEN", SECRET)
    asked = ["--cfg", "job", "--resolve", "tracker=wandb"]
    assert (
        run(
            [
                *asked,
                "tracker.project=x-${public_env:ASFT_PLANTED_TOKEN}",
                "tracker.entity='${public_env:ASFT_PLANTED_TOKEN}'",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert shown.count("***") == 2
    assert SECRET not in shown
    with pytest.raises(ConfigError, match=r"oc\.env:ASFT_PLANTED_TOKEN"):
        run([*asked, "tracker.project='${oc.env:ASFT_PLANTED_TOKEN}'"])
    assert SECRET not in capsys.readouterr().out


def test_one_that_is_named_as_no_secret_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    job = enumerate_cells(["outputs=${public_env:SCRATCH}/x", "seed=${public_env:UNSET,7}"], sweep=False).cells[0]
    assert (job.options.outputs, job.cell.seed) == (tmp_path / "x", 7)
    monkeypatch.setenv("ASFT_OUTPUTS", "elsewhere")
    assert enumerate_cells([], sweep=False).cells[0].options.outputs == Path("elsewhere")
