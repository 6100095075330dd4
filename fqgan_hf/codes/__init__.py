# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Codes of images as files: written from images (`encode`), turned into pictures (`decode`), trained on by a FAR.

`manifest` says what codes are and which tokenizer made them, `store` keeps them in a folder of shards, `code_files` in
one file. `shards` encodes images shard by shard, and `round_trip` measures what the codes have kept of them.
"""
