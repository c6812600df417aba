"""Any sequence classifier of Hugging Face's transformers, by its name or a folder: `hf:distilbert-base-uncased`.

Source: Wolf et al., "Transformers: State-of-the-Art Natural Language Processing", EMNLP 2020, arXiv 1910.03771.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.network import DICT, Network, setting

NAME = re.compile(r"(\w[\w.-]*(?:/[\w.-]+)?)(?:@([\w./-]+))?")  # and a revision of it, if one is to be kept to
NAMES = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
"""What inputs are called here, and by transformers; all are [B, T]."""
CONFIGURATION, WEIGHTS = "config.json", "model*.safetensors"


@dataclass(frozen=True)
class Hf(Network):
    variants: ClassVar[str] = "NAME-OR-FOLDER"
    contents: ClassVar[tuple[str, ...]] = ("config.json", "model*.safetensors*")
    takes: ClassVar[frozenset[str]] = frozenset({DICT})

    weights: str = setting("pretrained", choices=("pretrained", "random"))  # random: of its configuration alone

    @classmethod
    def check_variant(cls, variant: str) -> None:
        folder = Path(variant).expanduser()
        if folder.is_dir() and not (folder / CONFIGURATION).is_file():
            raise ValueError(f"{variant} has no {CONFIGURATION}: expected a folder written by save_pretrained")
        if not folder.is_dir() and not NAME.fullmatch(variant):
            raise ValueError(f"no folder {variant}, and no name such as distilbert-base-uncased")

    def build(self, shape: Any, outputs: int) -> nn.Module:
        """Errors: UserError also if the model cannot be had."""
        try:
            import transformers
        except ImportError:
            raise UserError(f"{self.called} needs the package transformers: pip install 'spurbench[text]'") from None
        if not {"ids", "mask"} <= shape.keys() <= NAMES.keys():
            raise UserError(f"the network {self.called} takes ids and mask, and perhaps types; not {', '.join(shape)}")
        messages: Any = transformers.utils.logging
        messages.set_verbosity_error()
        messages.disable_progress_bar()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each try it makes to reach the network
        try:
            model = self.load(transformers, outputs)
        except UserError:
            raise
        except Exception as error:  # of many kinds, some of them of packages below
            hint = ": give a folder written by save_pretrained" if isinstance(error, OSError) else ""
            raise UserError(f"cannot get {self.called} ({first_line(error)}){hint}") from None
        return self.tried(Classifier(model), shape).train()

    def load(self, transformers: Any, outputs: int) -> nn.Module:
        """The model, in float32; no code that comes with it is run."""
        folder, kind = self.folder(), transformers.AutoModelForSequenceClassification
        how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        how["config"] = transformers.AutoConfig.from_pretrained(folder, num_labels=outputs, **how)
        if self.weights == "random":
            model: nn.Module = kind.from_config(how["config"], trust_remote_code=False)
            return model.float()
        files = list(folder.glob(WEIGHTS))
        if not files:
            raise UserError(f"{folder} has no weights ({WEIGHTS}): copy them there, or take training.weights=random")
        for file in files:
            file.open("rb").close()  # so that it is noted among the files that a run has read
        how |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, info = kind.from_pretrained(folder, **how)
        tensors, missing = len(model.state_dict()), len(info["missing_keys"])
        if missing > tensors / 4:  # the head is always missing
            found = f"{tensors - missing} of the network's {tensors} tensors"
            raise UserError(f"{folder} has {found}: it is of another network")
        return model.float()

    def folder(self) -> Path:
        """Where its files are; those of a name are downloaded unless they are in Hugging Face's cache."""
        name = NAME.fullmatch(self.variant)
        if name is None:
            return self.path_of(self.variant)
        from huggingface_hub import snapshot_download

        wanted = [CONFIGURATION, *([f"{WEIGHTS}*"] if self.weights == "pretrained" else [])]
        return Path(snapshot_download(name[1], revision=name[2], allow_patterns=wanted))

    def tried(self, classifier: Classifier, shape: Any) -> Classifier:
        """The classifier, once it has taken two texts of this length.

        Errors: UserError if it cannot.
        """
        token = (getattr(classifier.model.config, "pad_token_id", None) or 0) + 1
        x = {name: torch.full((2, *of), token if name == "ids" else int(name == "mask")) for name, of in shape.items()}
        try:
            with torch.no_grad():
                classifier.eval()
                classifier.locate_head(x)
        except (IndexError, RuntimeError, ValueError) as error:
            what = f"texts of {shape['ids'][0]} tokens"
            raise UserError(f"the network {self.called} does not take {what}: {first_line(error)}") from None
        return classifier

    def head(self, module: nn.Module) -> str:
        """Errors: UserError for a model whose logits are not those of an affine layer on one vector of each text."""
        place = module.place
        if not isinstance(place, str):
            raise UserError(
                f"the head of {self.called} cannot be found: its logits are no affine layer's of one vector"
            )
        return place


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class Classifier(nn.Module):
    """A model of transformers' that is given the tensors of a batch as one dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.place: str | None = None  # of its head

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Logits [B, C].

        Errors: UserError for tokens that are not in its vocabulary.
        """
        words, (first, last) = self.model.get_input_embeddings().num_embeddings, x["ids"].aminmax()
        if first < 0 or last >= words:
            token = f"token {int(first if first < 0 else last)}"
            raise UserError(f"{token}, and the network's vocabulary has {words}: take the network's own tokenizer")
        logits: Tensor = self.model(**{NAMES[name]: part for name, part in x.items()}, return_dict=True).logits
        return logits

    def locate_head(self, x: dict[str, Tensor]) -> None:
        """Find the affine layer that gives the logits."""
        given: list[tuple[str, Tensor]] = []
        hooks = [
            layer.register_forward_hook(lambda _, inputs, out, name=name: given.append((name, out)))
            for name, layer in self.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        logits = self(x)
        for hook in hooks:
            hook.remove()
        self.place = next((name for name, out in reversed(given) if out is logits), None)
