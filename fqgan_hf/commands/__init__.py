# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The subcommands of `fqgan`, one per file, each with a `COMMAND`: it parses, calls the library and prints.

A subcommand checks what costs nothing before it imports the libraries, which takes seconds. What it does is one call
from Python; nothing but `fqgan_hf.cli` imports these files.
"""
