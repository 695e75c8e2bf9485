"""The same sizes in PyTorch: the dense listing of the paper, and a plain SigLIP train step.

    python torch_side.py ONLY REPEATS

Prints a JSON line for each, or nothing where torch is not installed. run.py calls it.
"""

import json
import pathlib
import sys
import time

import numpy as np
from run import arrays


def main(only: str, repeats: int) -> None:
    """A line for each selection and each plain step; `error` where it does not fit."""
    try:
        import torch
    except ImportError:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for program in json.loads(pathlib.Path(__file__).with_name("programs.json").read_text()):
        name, sizes = program["name"], program["sizes"]
        if only not in name:
            continue
        if sizes["what"] == "selection" and sizes["loss"] == "sigmoid":
            make, given = dense_listing, (arrays, program["inputs"], sizes)
        elif sizes.get("kind") == "plain" and program["weights"] is None:
            make, given = siglip_step, (sizes["model"], sizes["b"])
        else:
            continue
        line = {"name": f"torch-{name}", **sizes, "torch": torch.__version__}
        try:
            line["seconds"] = timed(torch, device, make(torch, device, *given), repeats)
        except RuntimeError as error:
            line["error"] = str(error).splitlines()[0][:300]
        print(json.dumps(line), flush=True)


def timed(torch, device: str, call, repeats: int) -> float:
    """Median seconds, after two calls that compile."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[2:]))


def dense_listing(torch, device: str, arrays, recipe: dict, sizes: dict):
    """Listing 1 of the paper as it is printed: the whole matrix of scores, then chunk by chunk."""
    z = {name: torch.from_numpy(np.asarray(a)).to(device) for name, a in arrays(recipe).items()}
    chunk = sizes["b"] // 16

    @torch.inference_mode()
    def call():
        def losses(who):
            logits = z[f"{who}_scale"] * z[f"{who}_img"] @ z[f"{who}_txt"].T + z[f"{who}_bias"]
            logits.diagonal().neg_()
            return torch.nn.functional.softplus(logits)

        scores = losses("learner") - losses("reference")
        own, taken = scores.diagonal().clone(), torch.zeros(len(scores), device=device)
        for k in range(16):
            logits = own if k == 0 else own + scores @ taken + scores.T @ taken
            noise = -torch.log(-torch.log(torch.rand(len(scores), device=device)))
            taken[(logits + noise - 1e8 * taken).topk(chunk).indices] = 1.0
        return taken

    return call


def siglip_step(torch, device: str, variant: str, b: int):
    """Both towers, sigmoid loss, clipping and AdamW: compiled, bfloat16."""
    width, heads = {"S": (384, 6), "B": (768, 12)}[variant[0]]
    nn = torch.nn

    def blocks():
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.tokens = nn.Conv2d(3, width, 16, 16), nn.Embedding(32_000, width)
            self.places = nn.Parameter(0.02 * torch.randn(196, width))
            self.order = nn.Parameter(0.02 * torch.randn(64, width))
            self.image, self.text = blocks(), blocks()
            self.logits = nn.Parameter(torch.tensor([2.3, -10.0]))

        def forward(self, images, tokens):
            x = self.patches(images).flatten(2).transpose(1, 2) + self.places
            zimg = nn.functional.normalize(self.image(x).mean(1), dim=-1)
            ztxt = nn.functional.normalize(
                self.text(self.tokens(tokens) + self.order)[:, -1], dim=-1
            )
            logits = self.logits[0].exp() * zimg.float() @ ztxt.float().T + self.logits[1]
            sign = 2 * torch.eye(len(logits), device=logits.device) - 1
            return -nn.functional.logsigmoid(sign * logits).sum() / len(logits)

    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=device == "cuda")
    loss_of = torch.compile(model) if device == "cuda" else model
    images = torch.rand(b, 3, 224, 224, device=device) * 2 - 1
    tokens = torch.randint(32_000, (b, 64), device=device)

    def call():
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(images, tokens)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return call


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
