"""One program, any accelerator: our compiled programs as a bundle that needs jax alone to run."""
