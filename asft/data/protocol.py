"""What the choice of protocol decides, in one place: rows, their order, texts, padding and number formats.

``clean`` is the default. ``official`` does what the authors' code does, quirks included (docs/protocol.md),
so that a difference from the paper has one cause fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from asft.config import Dtype, Settings, TrainingConfig
from asft.data.base import Data, attack_of, source_of, task_of
from asft.data.loading import EpochOrder, FileOrder
from asft.data.rows import Row, in_file_order, poison
from asft.data.templates import ChatTemplate, OfficialTemplate, Template


@dataclass(frozen=True)
class Clean:
    """Mixtures drawn from the seed, shuffled batches, the model's own chat template, one number format.

    Class attributes:
        drops_last: whether a batch that is not full is left out.
        training_dtype: number format of the weights that are fine-tuned; None is the pair's own.
    """

    cell: Settings
    drops_last: ClassVar[bool] = False
    training_dtype: ClassVar[Dtype | None] = None

    def template(self, tokenizer: PreTrainedTokenizerBase) -> Template:
        """How rows become token ids."""
        return ChatTemplate(tokenizer)

    def mixture(self, data: Data) -> list[Row]:
        """The user's rows, before the method adds its own."""
        return poison(data.train, data.harmful, self.cell.attack, self.cell.seed)

    def order(self, length: int) -> Sampler[int]:
        """Which row comes when, where the method does not say."""
        return EpochOrder(length, self.cell.seed)

    def padding(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The id that fills training batches up."""
        assert tokenizer.pad_token_id is not None, "the pair's tokenizer has a pad token"
        return int(tokenizer.pad_token_id)

    @property
    def training(self) -> TrainingConfig:
        """How the cell is fine-tuned."""
        return self.cell.training

    @property
    def harmful_dtype(self) -> Dtype | None:
        """Number format of the weights that answer malicious prompts; None is the pair's own."""
        return self.cell.evaluation.dtype

    @property
    def moved_dtype(self) -> Dtype:
        """As ``harmful_dtype``, where a measure moves the weights: bfloat16 would leave out its first steps."""
        return "float32"

    @property
    def task_dtype(self) -> Dtype | None:
        """As ``harmful_dtype``, where the task's test rows are answered."""
        return self.cell.evaluation.dtype


class Official(Clean):
    """The authors' files in file order, full batches only, their texts, fp32 training, a format per evaluation."""

    drops_last: ClassVar[bool] = True
    training_dtype: ClassVar[Dtype | None] = "float32"  # the scripts' pure bf16 acts only under FSDP, which is off

    def template(self, tokenizer: PreTrainedTokenizerBase) -> Template:
        """The authors' texts of the task."""
        return OfficialTemplate(tokenizer, self.cell.dataset.name)

    def mixture(self, data: Data) -> list[Row]:
        """The published file's rows; without the files a drawn mixture in their order."""
        task = task_of(self.cell)
        published = source_of(self.cell).mixture_rows(task, attack_of(self.cell))
        return in_file_order(super().mixture(data), task.name, self.cell.seed) if published is None else published

    def order(self, length: int) -> Sampler[int]:
        """File order in every epoch; rows that a method put behind the file's are spread over what is trained on."""
        file = self.cell.attack.benign_count() + self.cell.attack.harmful_count()
        return FileOrder(min(file, length), length, self.cell.training.batch_size)

    def padding(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Id 0, whatever it stands for; it is masked."""
        return 0

    @property
    def training(self) -> TrainingConfig:
        """Without autocast."""
        return replace(self.cell.training, autocast=None)

    @property
    def harmful_dtype(self) -> Dtype:
        """fp16."""
        return "float16"

    @property
    def moved_dtype(self) -> Dtype:
        """fp16, too."""
        return self.harmful_dtype

    @property
    def task_dtype(self) -> Dtype:
        """fp32 for SST-2; bf16 for AG News and GSM8K, and for Alpaca, of which no script is stated."""
        return task_of(self.cell).official_dtype


def protocol_of(cell: Settings) -> Clean:
    """The cell's protocol."""
    return Official(cell) if cell.protocol.name == "official" else Clean(cell)
