# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Captions and maps in the store of codes: from columns of the data to what a generator trains on."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from fqgan_hf.codes.manifest import CodesManifest, MapCodes
from fqgan_hf.codes.store import finish, load_rows, shard_name, write_shard
from fqgan_hf.evaluation.conditions import ImageConditions
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import LabelledImages, UnreadableImageError, load_images
from fqgan_hf.evaluation.label_images import label_picture
from fqgan_hf.modeling.modeling_fqgan import FQGANModel
from fqgan_hf.training.data.codes import CodeSequences
from fqgan_hf.training.data.crops import CROPS, make_views
from fqgan_hf.training.extract_codes import main as extract_codes

from ..conftest import TOKENIZER
from ..label_map_data import (
    CAPTIONS,
    COLORS,
    NUM_LABELS,
    cell,
    draw_labels,
    make_dataset,
    palette_picture,
    write_dataset,
)


NUMBER = 12


def save_tokenizer(folder, **settings):
    """With codebooks far apart: as they are initialized, most images would have the same few codes."""
    model = tiny.tokenizer(**{**TOKENIZER, **settings})
    torch.nn.init.normal_(model.quantizer.embedding)
    model.save_pretrained(str(folder))
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The data set, a tokenizer and a map tokenizer."""
    folder = tmp_path_factory.mktemp("conditions")
    write_dataset(folder / "data", NUMBER)
    torch.manual_seed(0)
    save_tokenizer(folder / "tokenizer")
    save_tokenizer(folder / "map-tokenizer", num_codebooks=1, codebook_size=16, num_labels=NUM_LABELS)
    return folder


@pytest.fixture(scope="module")
def map_tokenizer(place):
    return FQGANModel.from_pretrained(str(place / "map-tokenizer")).eval()


@pytest.fixture(scope="module")
def extract_to(place, cache_dir, to_command):
    """Extracts to a folder with captions and maps, some options changed, and gives the manifest and the rows."""

    def run(folder, columns=("caption", "keywords"), **changes):
        options = {
            "train_data_dir": place / "data", "cache_dir": cache_dir, "tokenizer": place / "tokenizer",
            "output_dir": folder, "image_column": "image", "map_column": "map", "shard_size": 5, "batch_size": 4,
            "map_tokenizer": place / "map-tokenizer", "crop": "plain", **changes,
        }  # fmt: skip
        extract_codes([*to_command(options), *(["--caption_column", *columns] if columns else [])])
        manifest = CodesManifest.load(folder)
        return manifest, load_rows(folder, manifest, str(cache_dir))

    return run


@pytest.fixture
def extract(extract_to, tmp_path):
    return partial(extract_to, tmp_path / "codes")


@pytest.fixture(scope="module")
def stored(extract_to, tmp_path_factory):
    """Manifest and rows of a store with everything."""
    return extract_to(tmp_path_factory.mktemp("codes"), crop="shift-flip")


def test_round_trip(stored, map_tokenizer):
    manifest, rows = stored
    views = CROPS["shift-flip"][0]
    assert manifest.captions and manifest.condition_columns == ["caption", "keywords", "map"]
    assert manifest.map.tokenizer_fingerprint == map_tokenizer.fingerprint()
    assert (manifest.map.num_codebooks, manifest.map.codebook_size, manifest.map.grid) == (1, 16, [4, 4])
    assert rows.features["map"].feature.dtype == "uint16" and manifest.map_shape == (len(views), 1, 4, 4)
    sequences = CodeSequences(rows, manifest, range(NUMBER))
    for i in range(NUMBER):
        captions = rows[i]["caption"]
        assert captions == [CAPTIONS[i % 4], "sign", f"number {i}"], "each once, in the order of the columns"
        labels = make_views(label_picture(draw_labels(i)), "shift-flip", 16, captions)
        codes = map_tokenizer.encode_labels(torch.stack(labels)).codes
        assert np.array_equal(np.reshape(rows[i]["map"], manifest.map_shape), codes)
        item = sequences[i]
        assert item["caption"] == CAPTIONS[i % 4]
        assert torch.equal(item["map_codes"], codes[0].permute(1, 2, 0).reshape(16, 1))


def test_a_map_is_cut_as_its_image(extract, place):
    """A picture that is its own map, by the same tokenizer: the same codes in every view, mirrored or not."""
    _, rows = extract(crop="ten-crop", map_column="picture", map_tokenizer=place / "tokenizer")
    assert rows["map"][:] == rows["codes"][:]
    assert len({tuple(row) for row in rows["codes"][:]}) > NUMBER // 2, "codes that tell images apart"


@pytest.mark.parametrize("crop", ["flip", "shift", "shift-flip"])
def test_label_maps_are_cut_as_pictures(crop):
    """By their colours, which no view scales: the labels that each view of the picture shows."""
    labels = draw_labels(3)
    pictures = make_views(Image.fromarray(COLORS[labels]), crop, 16)
    maps = make_views(palette_picture(labels), crop, 16)
    for picture, found in zip(pictures, maps, strict=True):
        shown = ((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        assert np.array_equal(COLORS[found], shown)
    assert len({found.numpy().tobytes() for found in maps}) == len(maps), "all views differ"


def test_scaled_label_maps_have_no_labels_in_between():
    labels = np.kron(draw_labels(1), np.ones((3, 3), dtype=np.uint8)) // 4 * 4  # 0 and 4
    for view in make_views(palette_picture(labels), "ten-crop", 16):
        assert view.shape == (16, 16) and view.dtype == torch.int64 and set(view.unique().tolist()) <= {0, 4}


def test_shifted_views_repeat_the_border():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    names, cut = CROPS["shift"]
    views = {
        name: np.asarray(view).astype(int) for name, view in zip(names, cut(Image.fromarray(pixels), 40), strict=True)
    }
    assert len(views) == 9 and np.array_equal(views["center"], pixels)
    assert np.array_equal(views["right"][:, 2:], pixels[:, :-2]), "by a twentieth"
    assert np.array_equal(views["right"][:, :2], pixels[:, [0, 0]])
    assert np.array_equal(views["up-left"][:-2, :-2], pixels[2:, 2:])
    assert (views["up-left"][-2:, -2:] == pixels[-1, -1]).all()
    assert CROPS["shift-flip"][0][9:] == [f"{name}-flip" for name in names]


@pytest.mark.parametrize(
    ("caption", "may_mirror"),
    [
        ("left arrow", False), ("Arrow to the RIGHT!", False), ("left-facing fist", False), ("rightwards hand", False),
        ("bright copyright sign", True), ("a cleft stone", True), ("", True),
    ],
)  # fmt: skip
def test_what_tells_left_from_right_is_not_mirrored(caption, may_mirror):
    """Whichever of the captions does."""
    image = Image.fromarray(COLORS[draw_labels(0)])
    plain = make_views(image, "shift-flip", 16)
    views = make_views(image, "shift-flip", 16, ["something", caption])
    expected = plain if may_mirror else plain[:9] * 2
    assert len(views) == 18 and all(map(torch.equal, views, expected))
    assert torch.equal(plain[11], plain[2].flip(-1)) and not torch.equal(plain[9], plain[0])


def test_draws_follow_from_seed_epoch_and_row(stored):
    manifest, rows = stored

    def drawn(seed, epochs=60):
        sequences = CodeSequences(rows, manifest, [2, 7], seed=seed)
        items = [sequences[(epoch, 1)] for epoch in range(epochs)]
        assert all(item["index"] == 7 for item in items)
        return [
            (item["caption"], item["codes"].numpy().tobytes(), item["map_codes"].numpy().tobytes()) for item in items
        ]

    first = drawn(seed=0)
    assert first == drawn(seed=0) and first != drawn(seed=1)
    assert {caption for caption, _, _ in first} == set(rows[7]["caption"])
    of_one = {codes for caption, codes, _ in first if caption == "sign"}
    assert len(of_one) > 5, "the view does not follow from the caption"
    # One view for both: which codes come with which map codes is the same in every epoch.
    stored = {
        codes.transpose(1, 2, 0).astype(np.int64).tobytes(): found.transpose(1, 2, 0).astype(np.int64).tobytes()
        for codes, found in zip(
            np.reshape(rows[7]["codes"], manifest.shape), np.reshape(rows[7]["map"], manifest.map_shape), strict=True
        )
    }
    assert all(stored[codes] == found for _, codes, found in first)


def test_batches_across_blocks(stored):
    """Rows of several shards at once, in any order, are those that are read one by one."""
    manifest, rows = stored
    sequences = CodeSequences(rows, manifest, range(NUMBER), seed=3)
    keys = [(1, i) for i in (11, 0, 5, 4, 6, 11)]
    for key, item in zip(keys, sequences.__getitems__(keys), strict=True):
        alone = CodeSequences(rows, manifest, range(NUMBER), seed=3)[key]
        assert item["caption"] == alone["caption"] and item["index"] == alone["index"]
        assert all(torch.equal(item[name], alone[name]) for name in ("codes", "map_codes"))


def test_without_conditions_nothing_changes(extract, manifest):
    """A store as it always was: no more columns, and the identity that shards of earlier versions carry."""
    plain, rows = extract(columns=None, map_column=None, map_tokenizer=None)
    assert rows.column_names == ["id", "label", "codes"] and not plain.captions and plain.map is None
    assert set(CodeSequences(rows, plain, [0])[0]) == {"codes", "class_labels", "index"}
    assert {"captions", "map", "condition_columns"} & set(plain.content()) == set()
    assert manifest.identity() == (
        b'{"codebook_size": 65536, "crop": "flip", "format_version": 1, "grid": [2, 5], "id2label": {"0": "a", "1": '
        b'"b"}, "num_codebooks": 3, "num_rows": 10, "resolution": 16, "shard_size": 4, "source": "s", '
        b'"tokenizer_fingerprint": "' + b"f" * 64 + b'", "views": ["center", "center-flip"]}'
    )


def test_captions_alone(extract):
    captioned, rows = extract(map_column=None, map_tokenizer=None)
    assert rows.column_names == ["id", "label", "codes", "caption"] and captioned.map is None
    assert "map_codes" not in CodeSequences(rows, captioned, [0])[0]


def test_a_moved_map_tokenizer_is_the_same_and_other_columns_are_not(extract, place, tmp_path):
    manifest, rows = extract(columns=None)
    assert rows.column_names == ["id", "label", "codes", "map"] and not manifest.captions
    (tmp_path / "moved").symlink_to(place / "map-tokenizer")
    (tmp_path / "codes" / "manifest.json").unlink()
    again, _ = extract(columns=None, map_tokenizer=tmp_path / "moved")
    assert again.map.tokenizer == str(tmp_path / "moved") and again.identity() == manifest.identity()
    with pytest.raises(ValueError, match="of another extraction"):
        extract(columns=None, map_column="grey")


def test_damaged_manifests_are_named(stored):
    content = stored[0].content()
    for change, message in (
        ({"captions": 1}, "captions must be true or false, got 1"),
        ({"map": [1]}, "map must have tokenizer, .*, grid, got list"),
        ({"map": {**content["map"], "grid": [4]}}, "grid of map must be two whole numbers of at least 1, got list"),
        ({"map": {**content["map"], "more": 1}}, "map must have tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            CodesManifest.parse(json.loads(json.dumps({**content, **change})), "codes")


def test_rows_must_have_what_the_manifest_tells_of(manifest, tmp_path):
    codes = torch.zeros(1, *manifest.shape, dtype=torch.int64)
    described = manifest.with_conditions(True, MapCodes("m", "g", 1, 4, [2, 2]), ["c", "m"])
    maps = torch.zeros(1, 2, 1, 2, 2, dtype=torch.int64)

    def write(of, **conditions):
        write_shard(tmp_path / shard_name(0), of, ["a"], [0], codes, **conditions)

    for of, conditions in (
        (described, {}), (described, {"captions": [["x"]]}), (manifest, {"captions": [["x"]]}),
        (manifest, {"map_codes": maps}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be given where the manifest tells of them, and only there"):
            write(of, **conditions)
    with pytest.raises(ValueError, match=r"map_codes must have shape \(images, 2, 1, 2, 2\) and lie in \[0, 3\]"):
        write(described, captions=[["x"]], map_codes=maps + 4)
    write(described, captions=[["x", "y"]], map_codes=maps + 3)
    finish(tmp_path, dataclasses.replace(described, num_rows=1))
    assert CodesManifest.load(tmp_path).map == described.map


@pytest.fixture(scope="module")
def images(place, cache_dir) -> LabelledImages:
    return load_images(
        ImageDataArguments(train_data_dir=str(place / "data"), image_column="image", cache_dir=str(cache_dir))
    )


@pytest.mark.parametrize(
    ("caption_columns", "map_column", "message"),
    [
        (["title"], None, r"caption_column must be among the columns of texts .*caption.*, got 'title'"),
        (["label"], None, r"columns of texts \['caption', 'keywords'\], got 'label'"),
        (["caption", "caption"], None, "caption_column must name each column once"),
        ([], "depth", r"map_column must be one of the image columns \[.*\], got 'depth'"),
        ([], "caption", "map_column must be one of the image columns"),
        ([], "image", "image of image 'data/00000000' cannot be read: .* one channel .* got mode RGB"),
    ],
)
def test_columns_that_do_not_fit_are_named(caption_columns, map_column, message, images):
    with pytest.raises(ValueError, match=message):
        ImageConditions(images, caption_columns, map_column, NUM_LABELS).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map": 7 * [palette_picture(draw_labels(0))] + 5 * [palette_picture(draw_labels(0, 16, 20))]},
         "map of image 'data/00000007' must have the size of the image, 16 x 16 pixels, got 20 x 16"),
        ({"map": 12 * [palette_picture(np.full((16, 16), NUM_LABELS, np.uint8))]},
         r"map of image 'data/00000000' cannot be read: labels must be in \[0, 4\], got 5"),
        ({"caption": 11 * ["x"] + [" "], "keywords": 12 * [[]]},
         "image 'data/00000011' has no caption in caption, keywords"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_named(changes, message):
    changes = {
        name: [cell(v) if isinstance(v, Image.Image) else v for v in column] for name, column in changes.items()
    }
    images = LabelledImages(make_dataset(NUMBER, **changes), "image", None, "data")
    with pytest.raises(UnreadableImageError, match=message):
        ImageConditions(images, ["caption", "keywords"], "map", NUM_LABELS).check()


def test_nothing_is_encoded_before_all_is_checked(extract, monkeypatch, tmp_path):
    monkeypatch.setattr("fqgan_hf.training.data.code_extraction.fill_store", None)
    for changes, message in (
        ({"map_column": "image"}, "must be one of the image|one channel"),
        ({"columns": ["title"]}, "caption_column must be among"),
        ({"resolution": 18}, "divisible by the downsampling factor 4, got 18x18"),
        ({"map_column": None}, "map_column and map_tokenizer belong together, got map_column=None"),
        ({"map_tokenizer": None}, "belong together, got map_column='map' and map_tokenizer=None"),
    ):
        with pytest.raises(ValueError, match=message):
            extract(**changes)


def test_a_tokenizer_of_label_maps_takes_no_pictures(extract, place):
    with pytest.raises(ValueError, match="tokenizer must be one of pictures, .*: --map_tokenizer takes it"):
        extract(tokenizer=place / "map-tokenizer")


def test_bad_maps_are_skipped_with_their_image(place, cache_dir, to_command, tmp_path):
    maps = [cell(palette_picture(draw_labels(i))) for i in range(120)]
    maps[77] = {"bytes": b"no picture", "path": None}
    write_dataset(tmp_path / "data", 120, map=maps)
    options = {
        "train_data_dir": tmp_path / "data", "cache_dir": cache_dir, "tokenizer": place / "tokenizer", "crop": "plain",
        "output_dir": tmp_path / "codes", "image_column": "image", "map_column": "map", "dataloader_num_workers": 1,
        "map_tokenizer": place / "map-tokenizer", "caption_column": "keywords",
    }  # fmt: skip
    extract_codes([*to_command(options), "--skip_bad_images"])
    manifest = CodesManifest.load(tmp_path / "codes")
    assert manifest.skipped == ["data/00000077"] and manifest.shards[0]["rows"] == 119
    rows = load_rows(tmp_path / "codes", manifest, str(cache_dir))
    assert rows[77]["id"] == "data/00000078" and rows[77]["caption"][-1] == "number 78"


def test_too_many_bad_maps_are_found_before_any_work(cache_dir, tmp_path):
    maps = [cell(palette_picture(draw_labels(i))) for i in range(110)] + [{"bytes": b"no picture", "path": None}] * 10
    write_dataset(tmp_path / "data", 120, map=maps)
    arguments = ImageDataArguments(
        train_data_dir=str(tmp_path / "data"), image_column="image", cache_dir=str(cache_dir), skip_bad_images=True
    )
    images = load_images(arguments)
    with pytest.raises(ValueError, match="tolerates 1% of unreadable images, got 2 of 120: data/00000110, data/0"):
        ImageConditions(images, map_column="map", num_labels=NUM_LABELS).check()
    assert images.bad.names == set()
