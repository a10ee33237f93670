"""Adapters exchanged with Hugging Face's PEFT itself, both ways: does each side's network give the other's outputs?

Command: python experiments/peft_interchange.py
Needs:   pip install torch peft safetensors
Time:    seconds
Result:  largest differences of outputs, in docs/lora.md

A network of an embedding, a convolution and two dense layers with other ranks, with LoRA, rsLoRA and DoRA.
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import peft
import torch
from jaxtyping import PyTree

from clujax import lora

WORDS = 11


class Torch(torch.nn.Module):
    """The network of the other side."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, 12)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.up = torch.nn.Linear(12, 10)
        self.down = torch.nn.Linear(10, 4, bias=False)

    def forward(self, tokens, picture):
        return torch.tanh(self.down(torch.tanh(self.up(self.words(tokens))))) + self.conv(picture).mean((2, 3))


def ours(params: PyTree, tokens: np.ndarray, picture: np.ndarray) -> jax.Array:
    """The same network on a tree of parameters."""
    hidden = jnp.tanh(params["words"]["embedding"][tokens] @ params["up"]["kernel"] + params["up"]["bias"])
    axes = ("NHWC", "HWIO", "NHWC")
    seen = jax.lax.conv_general_dilated(
        picture.transpose(0, 2, 3, 1), params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=axes
    )
    return jnp.tanh(hidden @ params["down"]["kernel"]) + (seen + params["conv"]["bias"]).mean((1, 2))


def tree(network: torch.nn.Module) -> PyTree:
    """Its parameters as jax has them."""
    w = {name: jnp.asarray(value.detach().numpy()) for name, value in network.named_parameters()}
    return {
        "words": {"embedding": w["words.weight"]},
        "conv": {"kernel": w["conv.weight"].transpose(2, 3, 1, 0), "bias": w["conv.bias"]},
        "up": {"kernel": w["up.weight"].T, "bias": w["up.bias"]},
        "down": {"kernel": w["down.weight"].T},
    }


def drawn(model: torch.nn.Module) -> None:
    """Adapters that do something."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.add_(0.3 * torch.randn_like(value))


def main() -> None:
    """Both ways for each variant."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    tokens, picture = draw.integers(0, WORDS, 7), draw.normal(size=(7, 3, 6, 6)).astype(np.float32)
    there = lambda model: model(torch.as_tensor(tokens), torch.as_tensor(picture)).detach().numpy()
    print("| adapters | PEFT's, read here | ours, read by PEFT | moved the outputs by |")
    print("|---|---|---|---|")
    for name, options in {"LoRA": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True}}.items():
        targets = ["conv", "up", "down"] + (["words"] if name != "DoRA" else [])
        network = Torch()
        base, plain = tree(network), there(network)
        config = peft.LoraConfig(
            r=3, lora_alpha=6, target_modules=targets, rank_pattern={"up": 2}, alpha_pattern={"down": 5}, **options
        )
        model = peft.get_peft_model(network, config)
        drawn(model)
        expected = there(model.eval())
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            adapters, spec = lora.read_peft(folder, base)
        read = np.asarray(ours(lora.merge(base, adapters, spec), tokens, picture))
        # The way back, with other numbers: every factor a little larger.
        grown = jax.tree.map(lambda leaf: 1.1 * leaf, adapters)
        result = np.asarray(ours(lora.merge(base, grown, spec), tokens, picture))
        with tempfile.TemporaryDirectory() as folder:
            lora.write_peft(folder, grown, spec, use_rslora=name == "rsLoRA")
            fresh = Torch()
            fresh.load_state_dict(model.unload().state_dict())
            written = there(peft.PeftModel.from_pretrained(fresh, folder).eval())
        apart = lambda one, other: float(np.abs(one - other).max())
        print(f"| {name} | {apart(read, expected):.1e} | {apart(written, result):.1e} | {apart(expected, plain):.2f} |")
    print(f"\npeft {peft.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
