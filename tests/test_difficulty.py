"""What makes a photo hard: found where the synthetic set drew it, and where these tests draw it."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetlib.data.synthetic import generate_sample
from unetlib.difficulty import DIFFICULTIES, TAG_OF, auc, difficulties, named

DISC = np.hypot(*(np.indices((128, 128)) - 63.5)) < 40


def measure(image=None, matte=DISC, name=None):
    """One difficulty (or all) of a grey disc before a darker wall, unless told otherwise."""
    if image is None:
        image = grey(np.where(np.asarray(matte) >= 0.5, 120, 70))
    found = difficulties(image, np.asarray(matte, np.float32))
    return found[name] if name else found


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def rising(values, by=0.01):
    return all(b > a + by for a, b in zip(values, values[1:], strict=False))


# the synthetic set


@pytest.fixture(scope="module")
def drawn():
    samples = [generate_sample(60061, index, 128) for index in range(150)]
    return samples, pd.DataFrame([difficulties(s.image, s.matte) for s in samples])


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_each_measure_finds_its_tag(drawn, name):
    samples, table = drawn
    assert auc(table[name], [TAG_OF[name] in s.tags for s in samples]) >= 0.95


@pytest.mark.parametrize("name", DIFFICULTIES)
def test_no_measure_is_another_one(drawn, name):
    """Its own tag is what a measure finds best. A glass always shines, hence the 0.95."""
    samples, table = drawn
    others = set(TAG_OF.values()) - {TAG_OF[name]}
    assert all(auc(table[name], [tag in s.tags for s in samples]) < 0.95 for tag in others)


@pytest.mark.parametrize("size", [64, 256])
def test_other_sizes(size):
    samples = [generate_sample(60062, index, size) for index in range(50)]
    table = pd.DataFrame([difficulties(s.image, s.matte) for s in samples])
    for name in DIFFICULTIES:
        assert auc(table[name], [TAG_OF[name] in s.tags for s in samples]) >= 0.9, name


def test_binary_masks_will_do(drawn):
    samples = drawn[0][:100]
    table = pd.DataFrame([difficulties(s.image, s.matte >= 0.5) for s in samples])
    for name, least in zip(DIFFICULTIES, (0.95, 0.85, 0.95, 0.95), strict=True):
        assert auc(table[name], [TAG_OF[name] in s.tags for s in samples]) >= least, name


# drawn here


def test_a_plain_photo_is_easy():
    assert all(value < 0.05 for value in measure().values())


def test_teeth_are_fine_detail():
    """The more and the longer the teeth of a comb, the rougher its edge."""

    def comb(teeth, length):
        mask = np.zeros((128, 128), bool)
        mask[64:, :] = True
        for x in np.linspace(4, 120, teeth).astype(int):
            mask[64 - length : 64, x : x + 2] = True
        return mask

    by_number = [measure(matte=comb(n, 20), name="fine_detail") for n in (0, 3, 9, 27)]
    assert rising(by_number) and by_number[0] < 0.02 and by_number[-1] > 0.3
    assert rising([measure(matte=comb(20, n), name="fine_detail") for n in (0, 2, 6, 20)])


def test_a_large_wave_is_no_fine_detail():
    y, x = np.indices((128, 128))
    wave = y > 64 + 12 * np.sin(x / 10)
    assert measure(matte=wave, name="fine_detail") < 0.05


@pytest.mark.parametrize("name", ["fine_detail", "transparency"])
def test_an_antialiased_edge_is_no_difficulty(name):
    soft = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 1)
    assert measure(matte=soft, name=name) < 0.02


def test_a_softer_matte_is_more_transparent():
    blurred = [cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), s) for s in (1, 4, 7, 12)]
    assert rising([measure(matte=m, name="transparency") for m in blurred])


def test_transparency_is_a_share_of_the_object():
    """Of a square, the lower part is a veil. Alpha is known to 5 pixels of the work size."""
    for part in (0.25, 0.5, 0.75):
        matte = np.zeros((256, 256), np.float32)
        matte[28:228, 28:228] = 1
        matte[228 - int(200 * part) : 228, 28:228] = 0.6
        assert measure(matte=matte, name="transparency") == pytest.approx(part, abs=0.04)
    assert measure(matte=np.full((50, 60), 0.5), name="transparency") == 1


def test_a_binary_mask_and_a_background_that_goes_on():
    """The same mask: once the wall's stripes go on behind a grey veil, once they do not."""
    x = np.indices((128, 128))[1]
    wall = np.where(x // 8 % 2, 200, 90)
    opaque = np.where(DISC, np.random.default_rng(0).integers(90, 180, (128, 128)), wall)
    veil = np.where(DISC, 0.6 * 150 + 0.4 * wall, wall)
    first, second = (measure(grey(i), name="transparency") for i in (opaque, veil))
    assert second > first + 0.15
    coloured = grey(veil)
    coloured[DISC] = coloured[DISC] * (1, 0.3, 0.2)  # a saturated veil is not seen through as much
    assert measure(coloured, name="transparency") < second - 0.1


def test_highlights_are_reflections():
    def lit(n, value=255, radius=3, tint=(1, 1, 1)):
        image = grey(np.where(DISC, 120, 70))
        for k in range(n):
            centre = 64 + 25 * np.array([np.cos(k), np.sin(k)])
            spot = np.hypot(
                *(np.indices((128, 128)).transpose(1, 2, 0) - centre).transpose(2, 0, 1)
            )
            image[spot < radius] = np.multiply(value, tint)
        return image

    def found(image, matte=DISC):
        return measure(image, matte, "reflection")

    assert rising([found(lit(n)) for n in (0, 1, 2, 4)])
    assert rising([found(lit(2, radius=r)) for r in (1.5, 3, 4.5)])
    assert found(lit(4, value=180)) == 0  # not bright
    assert found(lit(4, tint=(1, 0.9, 0.5))) == 0  # coloured
    assert found(lit(4), ~DISC) == 0  # in the background
    assert found(grey(np.where(DISC, 250, 70))) == 0  # a white object is not small
    soft = lit(4).astype(np.float32)
    assert found(cv2.GaussianBlur(soft, (0, 0), 6).astype(np.uint8)) == 0  # not steep


def test_stripes_are_texture():
    x = np.indices((128, 128))[1]

    def behind(amplitude, width=6):
        return grey(np.where(DISC, 120, 100 + amplitude * (x // width % 2)))

    assert rising([measure(behind(a), name="texture") for a in (0, 10, 30, 90)])
    assert rising([measure(behind(60, w), name="texture") for w in (64, 24, 6)])
    shade = grey(np.where(DISC, 120, 40 + x))
    assert measure(shade, name="texture") < 0.05  # no edges in it


@pytest.mark.parametrize("amount", [0, 30, 90])
def test_the_object_has_no_part_in_the_texture(amount):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128))
    wall = np.random.default_rng(1).integers(100 - amount, 101 + amount, (128, 128))
    plain, busy = (measure(grey(np.where(DISC, i, wall)), name="texture") for i in (120, noise))
    assert plain == pytest.approx(busy, abs=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 400))
def test_mirrored_and_turned_photos_are_as_hard(index):
    sample = generate_sample(60063, index, 64)
    first = difficulties(sample.image, sample.matte)
    for turn in (lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: np.rot90(a)):
        again = difficulties(turn(sample.image), turn(sample.matte))
        assert again == pytest.approx(first, abs=0.03)


@pytest.mark.parametrize("index", range(6))
def test_the_size_hardly_matters(index):
    """Drawn at 256 pixels, and the same picture at twice that size: also its antialiasing."""
    sample = generate_sample(60064, index, 256)
    double = [
        cv2.resize(a, (512, 512), interpolation=cv2.INTER_CUBIC)
        for a in (sample.image, sample.matte)
    ]
    first = difficulties(sample.image, sample.matte)
    assert difficulties(double[0], np.clip(double[1], 0, 1)) == pytest.approx(first, abs=0.05)


# whatever comes


@settings(deadline=None, max_examples=25)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0, None]),
    st.integers(0, 9),
)
@example(np.zeros((1, 1, 3), np.uint8), 1.0, 0)
@example(np.full((3, 5000, 3), 255, np.uint8), None, 1)
@example(np.zeros((5000, 3, 3), np.uint8), 0.5, 2)
@example(np.full((40, 50, 3), 77, np.uint8), None, 3)
@pytest.mark.filterwarnings("error")
def test_always_a_number_between_0_and_1(image, level, seed):
    shape = image.shape[:2]
    matte = (
        np.full(shape, level) if level is not None else np.random.default_rng(seed).random(shape)
    )
    for truth in (matte, matte >= 0.5):
        found = difficulties(image, truth)
        assert tuple(found) == DIFFICULTIES
        assert all(type(value) is float and 0 <= value <= 1 for value in found.values())


def test_nothing_to_measure_is_zero():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    none = difficulties(noise, np.zeros((40, 50)))
    assert {n: v for n, v in none.items() if v} == {"texture": none["texture"]}
    assert not any(difficulties(noise // 2, np.ones((40, 50))).values())


@pytest.mark.parametrize(
    ("image", "matte", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5)), r"uint8 \(H, W, 3\), got uint8 \(4, 5\)"),
        (np.zeros((4, 5, 3)), np.zeros((4, 5)), "got float64"),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5)), r"got uint8 \(0, 5, 3\)"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4)), r"\(4, 5, 3\), its matte \(5, 4\)"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 255), r"in \[0, 1\], got 255 to 255"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), np.nan), "got nan"),
    ],
)
def test_what_is_no_photo_with_a_matte(image, matte, message):
    with pytest.raises(ValueError, match=message):
        difficulties(image, matte)


# numbers about numbers


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_that_of_scikit_learn(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = zip(*rows, strict=True)
    if len(set(labels)) == 2:
        assert auc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_auc_by_hand():
    assert auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert auc([1, 2, 3, 4], [1, 1, 0, 0]) == 0
    assert auc([1, 1, 1, 1], [1, 0, 1, 0]) == 0.5
    assert auc([1, 3, 2, 4], [0, 0, 1, 1]) == 0.75  # of the four couples, three are in order


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [True, True], "undefined: all 2 labels are of one class"),
        ([1, 2, 3], [False] * 3, "undefined: all 3 labels are of one class"),
        ([], [], "undefined: all 0"),
        ([1, 2], [True], r"numbers \(1,\), got \(2,\)"),
        ([1, np.nan], [True, False], "NaN"),
    ],
)
def test_undefined_auc(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        auc(scores, labels)


def test_difficulties_in_words():
    table = pd.DataFrame(
        {"id": list("abcd"), "fine_detail": [0, 0.1, 0.2, 0.9], "texture": [0.5, 0.1, 0.1, 0.8]},
        index=[3, 1, 0, 7],
    )
    words = named(table)
    assert words.to_dict() == {3: "", 1: "", 0: "", 7: "fine detail, texture"}
    table["reflection"] = [0.4, 0.0, 0.0, 0.0]
    assert named(table)[3] == "reflection"
    assert (named(table.assign(texture=0.7, fine_detail=0.7, reflection=0.0)) == "").all()
    assert named(table.head(0)).empty
    with pytest.raises(ValueError, match="none of the columns fine_detail"):
        named(table[["id"]])
