"""The LSTM network derived again in NumPy, with the batch as the first axis."""

import numpy as np


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def network(weights, num_layers, x, state):
  """Zaremba et al. 2014, equations 4-6, gate by gate; then the linear map.

  Args:
    weights: w_x, w_h and b of each layer, then w and b of the linear map.
    num_layers: how many layers there are.
    x: inputs, [N, features].
    state: (h, c) of each layer, [N, units].

  Returns:
    The outputs, [N, outputs], and the next state.
  """
  *layers, w, b = weights
  next_state = []
  for i in range(num_layers):
    w_x, w_h, bias = layers[3 * i : 3 * i + 3]
    h, c = state[i]
    units = h.shape[1]

    def gate(k, x=x, h=h, w_x=w_x, w_h=w_h, bias=bias, units=units):
      columns = slice(k * units, (k + 1) * units)
      return x @ w_x[:, columns] + h @ w_h[:, columns] + bias[columns]

    c = sigmoid(gate(1) + 1.0) * c + sigmoid(gate(0)) * np.tanh(gate(3))
    h = sigmoid(gate(2)) * np.tanh(c)
    next_state.append((h, c))
    x = h
  return x @ w + b, next_state


def derivative(function, arrays, step=1e-6):
  """The derivative of a scalar function of arrays, by central differences."""
  gradients = []
  for array in arrays:
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
      value = array[index]
      array[index] = value + step
      above = function(arrays)
      array[index] = value - step
      below = function(arrays)
      array[index] = value
      gradient[index] = (above - below) / (2 * step)
    gradients.append(gradient)
  return gradients
