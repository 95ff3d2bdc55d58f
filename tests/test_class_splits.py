"""How the classes of labelled images are split, and cut to one size."""

import numpy as np
import pytest

from l2l_tf.problems import class_splits, few_shot


def labelled(*counts):
  """Images of classes of so many images each, named "a", "b" and so on."""
  labels = np.repeat([chr(ord("a") + i) for i in range(len(counts))], counts)
  return np.zeros([len(labels), 4, 4, 1], np.uint8), labels


@pytest.mark.parametrize(
  "classes, expected",
  [
    (4, [2, 0, 2]),
    (5, [3, 0, 2]),
    (9, [7, 0, 2]),
    (10, [6, 2, 2]),
    (14, [10, 2, 2]),
    (15, [9, 3, 3]),
  ],
)
def test_every_split_that_there_is_has_classes_for_an_episode(classes, expected):
  splits = class_splits.of(labelled(*[2] * classes))
  assert [part.num_classes if part else 0 for part in splits] == expected
  for split, part in splits._asdict().items():
    if part:
      few_shot(splits, 2, 1, 1, split, "dense").init([0, 1])


def test_classes_are_cut_to_the_smallest_which_is_named():
  train, _, test = class_splits.of(labelled(5, 5, 3, 5))
  cut, whole = (train, test) if train.smallest else (test, train)
  assert (cut.num_images, cut.smallest) == (3, "'c'")
  assert (whole.num_images, whole.smallest) == (5, "")


CUT = "class 'c', the smallest, to which all are cut, has only"


@pytest.mark.parametrize(
  "counts, options, complaint",
  [
    ([2], {}, "at least four classes, two for training and two others.*name 1; give"),
    ([2, 2, 2], {}, "two others for test, but its labels name 3; give images of more"),
    ([20] * 5, {"split": "test"}, "ways=5, but .* only 2 classes to .*; give ways=2"),
    ([20] * 5, {}, "only 3 classes to draw from; give ways of 2 to 3"),
    ([20] * 5, {"split": "validation"}, "set, a tuple of 2, has too .* least 10 class"),
    ([20, 20, 1, *[20] * 9], {"ways": 2}, f"{CUT} 1; leave that class out or give it"),
    ([20, 20, 9, *[20] * 9], {"ways": 2}, f"{CUT} 9; give fewer shots or queries, lea"),
    ([9] * 12, {"ways": 2}, "but a class has only 9; give fewer shots or queries"),
    ([1] * 12, {"ways": 2}, "a class has only 1; give more images of each class"),
  ],
)
def test_too_few_classes_or_images_are_one_sentence(counts, options, complaint):
  with pytest.raises(ValueError, match=complaint) as error:
    few_shot(labelled(*counts), learner="dense", **options)
  message = str(error.value)
  assert "\n" not in message and message.count(".") == 1 and len(message) < 260


def test_a_hand_made_split_of_one_class_gets_no_advice_of_one_way():
  train = class_splits.of(labelled(2, 2, 2, 2)).train
  one = train._replace(rows=train.rows[:1])
  with pytest.raises(ValueError, match="only one class to draw from; give data of mo"):
    few_shot(class_splits.ClassSplits(one, None, train), 2, 1, 1)
