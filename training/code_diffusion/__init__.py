# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
