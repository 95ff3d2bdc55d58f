"""Labelled images of one's own: what is taken for them, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import Dense, class_splits, few_shot

LABELS = np.repeat(np.arange(4), 3)
IMAGES = np.random.default_rng(0).random([12, 8, 8, 1])
LEVELS = np.random.default_rng(1).integers(0, 256, [12, 8, 8, 1])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64"])
def test_integers_of_every_type_are_scaled_like_uint8(dtype):
  levels = LEVELS // 2 if dtype == "int8" else LEVELS
  episodes = [
    few_shot((levels.astype(kind), LABELS), 2, 1, 1, learner=Dense(2)).init([0, 1])[1]
    for kind in (dtype, "uint8")
  ]
  for found, expected in zip(*episodes):
    np.testing.assert_array_equal(found, expected)
  assert 0.1 < np.max(expected) <= 1


def test_a_hand_made_split_of_integers_is_scaled_too():
  own = class_splits.of((LEVELS.astype(np.uint8), LABELS)).train
  wide = own._replace(images=tf.cast(own.images, tf.int64))
  splits = class_splits.ClassSplits(wide, None, wide)
  _, found = few_shot(splits, 2, 1, 1, learner=Dense(2)).init([0, 1])
  assert np.max(found.query) <= 1


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool"])
def test_other_images_are_floats_as_they_are(dtype):
  images = (IMAGES > 0.5 if dtype == "bool" else IMAGES).astype(dtype)
  found = class_splits.of((images, LABELS)).train.images
  assert found.dtype == tf.float32
  assert {*np.ravel(found)} <= {*np.ravel(images.astype(np.float32))}


def test_what_resizing_leaves_beyond_0_and_1_is_taken():
  images = np.where(IMAGES > 0.5, 1 + 1e-6, -1e-6)
  assert np.max(class_splits.of((images, LABELS)).train.images) > 1


@pytest.mark.parametrize(
  "labels",
  [
    list(LABELS),
    [f"class {i}" for i in LABELS],
    np.array([f"class {i}" for i in LABELS], object),
    tf.constant([f"class {i}" for i in LABELS]),
    LABELS.astype(object),
    LABELS.astype(float),
  ],
)
def test_labels_are_integers_or_strings_in_any_container(labels):
  train, _, test = class_splits.of((list(IMAGES), labels))
  assert (train.num_classes, test.num_classes, train.num_images) == (2, 2, 3)
  expected = class_splits.of((tf.constant(IMAGES), LABELS)).train.images
  np.testing.assert_array_equal(train.images, expected)


AS_PAIR = r"it needs images and a label for each; give a pair of images \[N, "
OF_OBJECTS = "got labels of type object; labels must be integers or strings, one for"


@pytest.mark.parametrize(
  "dataset, complaint",
  [
    (IMAGES, r"an array of shape \(12, 8, 8, 1\) and type float64, but " + AS_PAIR),
    (tf.constant(IMAGES), r"shape \(12, 8, 8, 1\) and type float64, but " + AS_PAIR),
    ((IMAGES,), "given as a tuple of 1, but " + AS_PAIR),
    ((IMAGES, LABELS, IMAGES), "given as a tuple of 3, but " + AS_PAIR),
    ({"images": IMAGES}, "given as a dict, but " + AS_PAIR),
    (None, "given as None, but " + AS_PAIR),
    ((IMAGES, None), "12 images needs a label for each, but got none; give"),
    ((IMAGES, LABELS[1:]), r"each, but got labels of shape \(11,\); give"),
    ((IMAGES, np.eye(12)), r"each, but got labels of shape \(12, 12\); give"),
    ((IMAGES, [None] * 12), OF_OBJECTS),
    ((IMAGES, [*LABELS[:11], None]), OF_OBJECTS),
    ((IMAGES, [*[[0]] * 11, [0, 1]]), OF_OBJECTS),
    ((IMAGES, LABELS + 0.5), "got labels of type float64; labels must be integers"),
    ((IMAGES, LABELS * np.nan), "got labels of type float64; labels must be integers"),
    ((None, LABELS), r"got None for its images; give an array \[N, height, width, ch"),
    (([], []), r"got an array of shape \(0,\) and type float64 for its images; give"),
    ((IMAGES[..., 0], LABELS), r"shape \(12, 8, 8\) and .* images with one channel"),
    (([[[0, 1], [2]]], LABELS), r"got an array of shape \(1, 2\) and type object for"),
    (("photos", LABELS), "got 'photos' for its images; give an array"),
    ((map(np.abs, IMAGES), LABELS), "got a map for its images; give an array"),
    (([IMAGES[0], IMAGES[0, 1:]], [0, 1]), r"2 sizes, such as \(7, 8, 1\) and \(8, 8"),
    ((IMAGES + 0.5, LABELS), "images of type float64 with values from 0.5.* to 1.5"),
    ((IMAGES - 0.5, LABELS), "values from -0.4.*integers from 0 to 255, or floats"),
    ((IMAGES * np.nan, LABELS), "values from nan to nan; give integers from 0 to 255"),
    ((LEVELS + 1, LABELS), "images of type int64 with values from 1 to 256; give int"),
    ((LEVELS - 1, LABELS), "images of type int64 with values from -1 to 254; give in"),
    ((IMAGES.astype(complex), LABELS), "images of type complex128; cast them to uint8"),
    ((IMAGES.astype(object), LABELS), "images of type object; cast them to uint8"),
  ],
)
def test_bad_data_are_one_sentence_without_their_values(dataset, complaint):
  with pytest.raises(ValueError, match=complaint) as error:
    few_shot(dataset)
  assert "\n" not in str(error.value) and len(str(error.value)) < 260
