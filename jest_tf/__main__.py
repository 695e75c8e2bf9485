"""The command `jest`: `jest NAME …` is `python -m jest_tf.NAME …`. Imports no TensorFlow."""

import runpy
import sys

from jest_tf.errors import nearest

# In the order of a project: command -> (module, what it does).
COMMANDS = {
    "prepare": ("prepare", "turn your image-text pairs into what training reads"),
    "train_tokenizer": ("train_tokenizer", "learn a vocabulary from captions"),
    "check": ("check", "check config, data, memory and cost before training"),
    "import": ("import_weights", "turn public SigLIP weights into a run at step 0"),
    "train": ("train", "train a reference, a baseline, or a model that chooses its data"),
    "cache": ("cache_reference", "compute a reference's embeddings once"),
    "evaluate": ("evaluate", "measure a run or an export: retrieval, zero-shot, few-shot"),
    "report": ("report", "compare runs and show what they selected, as an HTML page"),
    "audit": ("audit", "judge each pair of a data set, by a run or by models"),
    "curate": ("curate", "write the pairs that an audit lets you keep, for any trainer"),
    "export": ("export", "write a model for TensorFlow, transformers, big_vision or Keras"),
    "retrieve": ("retrieve", "index pictures and search them by text"),
    "serve": ("serve", "a search page for an index, with JSON behind it"),
}


def usage() -> str:
    """What `jest --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "jest: contrastive image-text training that chooses its data (arXiv 2406.17711).\n\n"
        f"usage: jest COMMAND [FLAGS]\n\n{lines}\n\njest COMMAND --help lists the flags of a "
        "command. `python -m jest_tf.MODULE` does the same."
    )


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "--helpfull", "help"):
        print(usage())
        return
    if name == "--version":
        from jest_tf import __version__

        print(__version__)
        return
    modules = {module: module for module, _ in COMMANDS.values()}
    modules |= {command: module for command, (module, _) in COMMANDS.items()}
    if name not in modules:
        text = f"error: jest has no command {name!r}{nearest(name, COMMANDS)}. See jest --help."
        print(text, file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"jest {name}", *arguments]
    runpy.run_module(f"jest_tf.{modules[name]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
