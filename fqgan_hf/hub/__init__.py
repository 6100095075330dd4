# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Everything between our models and the Hub: kinds of models, publishing, model cards, what a folder holds."""
