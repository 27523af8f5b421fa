"""More rows than a data folder holds: refused when the configuration is checked, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from asft.cells.checks import pool_sizes
from asft.cells.compose import enumerate_cells
from asft.config import ConfigError
from asft.data.base import Attack
from asft.data.files import PUBLISHED, Files

pytestmark = pytest.mark.slow

PAIR = ["model=pair", "model.base=org/base", "model.aligned=org/aligned"]


def compose(root: Path, *overrides: str) -> None:
    enumerate_cells([*PAIR, f"data.root={root}", *overrides], sweep=False)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["attack.n=2000"], ["attack.n=2000", "1800 benign", "holds 1000", "Lower attack.n"]),
        (["attack.p=0.5"], ["attack.p=0.5", "500 harmful", "holds 100"]),
        (["attack=advbench"], ["attack=advbench", "attack=harmful"]),
        (["evaluation.n_harmful=251"], ["evaluation.n_harmful=251", "250"]),
        (
            ["method=safeinstr", "method.share=0.2"],
            ["method=safeinstr", "200 safety rows", "holds 100", "method.share"],
        ),
        (["method=bea", "method.safety=101"], ["method=bea", "101 safety rows"]),
        (["method=bea_no_trigger", "method.after.safety=101"], ["method=bea", "101 safety rows"]),
        (["method=asft_alt", "method.harmful=101"], ["101 harmful rows", "holds 100"]),
        (["protocol=official", "attack.n=500"], ["attack.n=500", "attack.n=1000 attack.p=0.1"]),
        (["protocol=official", "attack.mix=replace"], ["attack.mix=replace", "holds 1000 and 100"]),
        (["protocol=official", "dataset=sst2", "attack.p=0"], ["attack.p=0", "dataset=sst2", "attack.p=0.1"]),
    ],
)
def test_what_the_files_cannot_give_is_refused_early(published: Path, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(published, *overrides)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=aligned", "attack.n=5000"],  # trains nothing, so it draws nothing
        ["attack=none", "attack.n=1000"],
        ["method=lisa_aligned"],
        ["protocol=official", "attack.p=0.2"],
        ["protocol=official", "method=asft_alt"],
    ],
)
def test_what_the_files_can_give_composes(published: Path, overrides: list[str]) -> None:
    compose(published, *overrides)


def test_a_folder_that_is_not_there_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder ft_datasets there"):
        compose(tmp_path)


@pytest.mark.real
def test_the_shipped_files_hold_what_the_documentation_says(official: Path) -> None:
    sizes = pool_sizes(Files(str(official)), PUBLISHED["agnews"], Attack("harmful", p=0.1, n=1000))
    assert (sizes.benign, sizes.harmful, sizes.safety, sizes.evaluation) == (1000, 293, 98, 250)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.refusals=2000", r"model.refusals=2000: .* holds only 1\d\d\d; set it to at most that"),
        ("model.data=null", "model.data=null: model=smollm2_135m is aligned on public safety data; name their folder"),
        ("model.data=nowhere", "model.data=nowhere: 14 of 14 files are missing in .*/nowhere, spard_pairs"),
    ],
)
def test_what_the_twin_lacks_is_named(published: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        enumerate_cells(["model=smollm2_135m", override, f"data.root={published}"], sweep=False)
