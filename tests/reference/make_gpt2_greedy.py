#!/usr/bin/env python3
"""Makes gpt2_tiny_greedy.json: what transformers.generate writes greedily after some prompts, for tests/unit/decode/test_decoder.c; also
prints the same for a folder and prompts of the caller's.

Needs torch and transformers (made with 2.15.0 and 5.23.0). The tests of the unit do not run it; tests/cli/test_generate.sh does where
transformers is installed.

    python3 make_gpt2_greedy.py                                   writes gpt2_tiny_greedy.json beside the script
    python3 make_gpt2_greedy.py FOLDER NEW 1,2,3 4,5 ...          prints, a line a prompt: the tokens after it, as many as are sure

A token is sure while, of the logits that it and those before it were chosen by, the largest two are at least 1e-4 apart: another order of
sums may choose otherwise from there on.
"""
import json
import pathlib
import sys

import torch
import transformers

LEAST_GAP = 1e-4


@torch.no_grad()
def go_on(model, prompt, new):
    """Greedy tokens after the prompt, in f32, and how many of them are sure."""
    room = model.config.max_position_embeddings - len(prompt)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=min(new, room), output_logits=True, return_dict_in_generate=True, pad_token_id=0)
    tokens = out.sequences[0, len(prompt):].tolist()
    sure = 0
    for logits in out.logits:
        best = logits[0].topk(2).values
        if best[0] - best[1] < LEAST_GAP:
            break
        sure += 1
    return tokens, sure


def load(folder):
    return transformers.GPT2LMHeadModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def write_reference(folder):
    model = load(folder / "gpt2_tiny")
    generator = torch.Generator().manual_seed(11)
    texts = []
    for length in (1, 5, 17, 30):
        prompt = torch.randint(0, 61, (length,), generator=generator).tolist()
        tokens, sure = go_on(model, prompt, 39)
        texts.append({"prompt": prompt, "tokens": tokens[:sure]})
        print(f"{length} tokens: {len(tokens)} more, {sure} of them sure: {tokens}")
    reference = {"made_with": f"torch {torch.__version__}, transformers {transformers.__version__}", "texts": texts}
    with open(folder / "gpt2_tiny_greedy.json", "w", encoding="utf-8") as out:
        json.dump(reference, out, separators=(",", ":"))
        out.write("\n")


def main():
    if len(sys.argv) < 3:
        write_reference(pathlib.Path(__file__).parent)
        return
    model = load(sys.argv[1])
    for text in sys.argv[3:]:
        tokens, sure = go_on(model, [int(token) for token in text.split(",")], int(sys.argv[2]))
        print(",".join(str(token) for token in tokens[:sure]))


if __name__ == "__main__":
    main()
