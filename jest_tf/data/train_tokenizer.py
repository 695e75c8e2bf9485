"""The place of `jest_tf.train_tokenizer` in earlier versions."""

if __name__ == "__main__":
    import runpy

    runpy.run_module("jest_tf.train_tokenizer", run_name="__main__", alter_sys=True)
