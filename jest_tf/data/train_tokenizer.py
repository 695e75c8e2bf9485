"""Where the command `jest_tf.train_tokenizer` was; scripts of users still call it here."""

if __name__ == "__main__":
    import runpy

    runpy.run_module("jest_tf.train_tokenizer", run_name="__main__", alter_sys=True)
