"""Mutated inputs for everything that reads what others wrote.

`mutate` makes inputs, `readers` lists what reads them and what is allowed to happen, `worker` feeds
them in a process with bounded memory, `watch` starts workers and counts crashes and hangs.
"""
