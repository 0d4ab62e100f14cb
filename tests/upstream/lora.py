"""Random LoRA weights for a tiny pipeline, in the file and the names that diffusers saves."""

from pathlib import Path

from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from tests.tiny.parts import randomize


def save_lora(model: Path | str, folder: Path) -> Path:
    """Write LoRA weights for the attention of a saved pipeline's transformer; returns the file."""
    pipe = DiffusionPipeline.from_pretrained(model)
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k"]))
    names = [name for name, _ in pipe.transformer.named_modules() if name.endswith(("lora_A", "lora_B"))]
    for seed, module in enumerate(map(pipe.transformer.get_submodule, names)):
        randomize(module, seed)
    weights = get_peft_model_state_dict(pipe.transformer)
    type(pipe).save_lora_weights(folder, transformer_lora_layers=weights)
    return folder / "pytorch_lora_weights.safetensors"
