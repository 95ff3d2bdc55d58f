"""The paper's figures: what each shows, and how it is made again."""

from l2l_tf.reproductions import cifar, mnist, neural_art, quadratics, transfer

# In the paper's order.
FIGURES = {
  figure.name: figure
  for figure in (
    quadratics.FIGURE,
    mnist.FIGURE,
    transfer.FIGURE,
    cifar.FIGURE,
    neural_art.FIGURE,
  )
}
