"""Small models as other people write them: plain Flax, not a word of jbin.

Their shapes are those of public NNX models: an image classifier, a residual
network, a vision transformer, a U-Net, a state space block, and a decoder with
einsum kernels, tied embeddings and stacked layers.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class Cnn(nnx.Module):
  """Two convolutions with pooling, two dense layers, dropout."""

  def __init__(self, rngs: nnx.Rngs):
    self.conv1 = nnx.Conv(1, 8, (3, 3), rngs=rngs)
    self.conv2 = nnx.Conv(8, 16, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.dropout = nnx.Dropout(0.25, rngs=rngs)
    self.linear1 = nnx.Linear(64, 32, rngs=rngs)
    self.linear2 = nnx.Linear(32, 10, rngs=rngs)

  def __call__(self, x):
    x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
    x = nnx.max_pool(nnx.relu(self.norm(self.conv2(x))), (2, 2), (2, 2))
    x = self.dropout(nnx.relu(self.linear1(x.reshape(x.shape[0], -1))))
    return self.linear2(x)


class _Residual(nnx.Module):
  def __init__(self, features, down, rngs):
    self.conv0 = nnx.Conv(
      features, features, (3, 3), padding=1, use_bias=False, rngs=rngs
    )
    self.bn0 = nnx.BatchNorm(features, use_running_average=True, rngs=rngs)
    self.downsample = (
      nnx.Conv(features, features, (1, 1), use_bias=False, rngs=rngs)
      if down
      else None
    )

  def __call__(self, x):
    identity = x if self.downsample is None else self.downsample(x)
    return nnx.relu(self.bn0(self.conv0(x)) + identity)


class ResNet(nnx.Module):
  """A stem, groups of blocks in lists, a classifier called fc."""

  def __init__(self, rngs: nnx.Rngs):
    self.stem = nnx.Conv(
      3, 8, (7, 7), strides=2, padding=3, use_bias=False, rngs=rngs
    )
    self.layer0 = nnx.List(
      [_Residual(8, True, rngs), _Residual(8, False, rngs)]
    )
    self.layer1 = nnx.List([_Residual(8, False, rngs)])
    self.fc = nnx.Linear(8, 5, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.stem(x))
    for group in (self.layer0, self.layer1):
      for block in group:
        x = block(x)
    return self.fc(x.mean((1, 2)))


class _Encoder(nnx.Module):
  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(
      num_heads=2, in_features=16, decode=False, rngs=rngs
    )
    self.mlp = nnx.Sequential(
      nnx.Linear(16, 32, rngs=rngs), nnx.gelu, nnx.Linear(32, 16, rngs=rngs)
    )
    self.before = nnx.LayerNorm(16, rngs=rngs)
    self.after = nnx.LayerNorm(16, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, deterministic=True)

  def __call__(self, x):
    x = x + self.attention(self.before(x))
    return x + self.dropout(self.mlp(self.after(x)))


class Vit(nnx.Module):
  """Patches by a convolution, a class token, positions, encoders, a head."""

  def __init__(self, rngs: nnx.Rngs):
    self.projection = nnx.Conv(3, 16, (4, 4), strides=(4, 4), rngs=rngs)
    self.cls_token = nnx.Param(jnp.zeros((1, 1, 16)))
    self.positions = nnx.Param(0.02 * rngs.params.normal((1, 5, 16)))
    self.layers = nnx.List([_Encoder(rngs) for _ in range(2)])
    self.norm = nnx.LayerNorm(16, rngs=rngs)
    self.classifier = nnx.Linear(16, 10, rngs=rngs)

  def __call__(self, x):
    x = self.projection(x)
    x = x.reshape(x.shape[0], -1, 16)
    token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, 16))
    x = jnp.concatenate([token, x], axis=1) + self.positions[...]
    for layer in self.layers:
      x = layer(x)
    return self.classifier(self.norm(x)[:, 0])


class UNet(nnx.Module):
  """Down by pooling, up by a transposed convolution, a skip connection."""

  def __init__(self, rngs: nnx.Rngs):
    self.down = nnx.Conv(1, 8, (3, 3), rngs=rngs)
    self.bottom = nnx.Conv(8, 16, (3, 3), rngs=rngs)
    self.up = nnx.ConvTranspose(
      16, 8, kernel_size=(2, 2), strides=(2, 2), padding="VALID", rngs=rngs
    )
    self.out = nnx.Conv(16, 2, (1, 1), rngs=rngs)

  def __call__(self, x):
    left = nnx.relu(self.down(x))
    x = nnx.relu(self.bottom(nnx.max_pool(left, (2, 2), (2, 2))))
    return self.out(jnp.concatenate([left, self.up(x)], axis=-1))


class _Depthwise(nnx.Module):
  def __init__(self, features, rngs):
    self.conv = nnx.Conv(
      features,
      features,
      (4,),
      padding=((0, 0),),
      feature_group_count=features,
      rngs=rngs,
    )

  def __call__(self, x):
    return self.conv(jnp.pad(x, ((0, 0), (3, 0), (0, 0))))


class Ssm(nnx.Module):
  """A state space mixer: projections, depthwise convolution, own arrays."""

  def __init__(self, rngs: nnx.Rngs):
    self.in_proj = nnx.Linear(16, 48, use_bias=False, rngs=rngs)
    self.conv1d = _Depthwise(32, rngs)
    self.A_log = nnx.Param(jnp.zeros(8))
    self.D = nnx.Param(jnp.ones(16))
    self.out_proj = nnx.Linear(16, 16, use_bias=False, rngs=rngs)

  def __call__(self, x):
    z, xb = jnp.split(self.in_proj(x), [16], axis=-1)
    u, b, c = jnp.split(nnx.silu(self.conv1d(xb)), [16, 24], axis=-1)
    decay = jnp.exp(-jnp.exp(self.A_log[...]))
    length = x.shape[1]
    mask = jnp.tril(jnp.ones((length, length)))
    y = jnp.einsum("bin,n,bjn,ij,bjp->bip", c, decay, b, mask, u)
    y += jnp.einsum("bip,p->bip", u, self.D[...])
    return self.out_proj(y * nnx.silu(z))


class _OwnEinsum(nnx.Module):
  """A kernel called w, multiplied by jnp.einsum: no rule can reach it."""

  def __init__(self, shape, rngs):
    self.w = nnx.Param(rngs.params.normal(shape) / 4)

  def __call__(self, equation, x):
    return jnp.einsum(equation, x, self.w[...])


class _Layer(nnx.Module):
  def __init__(self, rngs):
    self.gate = nnx.Einsum("btd,df->btf", (16, 32), rngs=rngs)
    self.down = nnx.Linear(32, 16, use_bias=False, rngs=rngs)
    self.norm = nnx.RMSNorm(16, rngs=rngs)

  def __call__(self, x):
    return x + self.down(nnx.silu(self.gate(self.norm(x))))


class Decoder(nnx.Module):
  """Tied embeddings, an einsum of its own, stacked layers under a scan."""

  def __init__(self, rngs: nnx.Rngs):
    self.embedder = nnx.Embed(40, 16, rngs=rngs)
    self.mix = _OwnEinsum((16, 16), rngs)

    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(key):
      return _Layer(nnx.Rngs(key))

    self.layers = layers(jax.random.split(rngs.params(), 3))

  def __call__(self, tokens):
    x = self.mix("btd,de->bte", self.embedder(tokens))
    x, _ = jax.lax.scan(lambda x, layer: (layer(x), None), x, self.layers)
    return self.embedder.attend(x)


def images(*shape):
  """A batch of two random images."""
  return jax.random.normal(jax.random.key(7), (2, *shape))


# Name -> (class, what it is called with).
MODELS = {
  "cnn": (Cnn, images(8, 8, 1)),
  "resnet": (ResNet, images(16, 16, 3)),
  "vit": (Vit, images(8, 8, 3)),
  "unet": (UNet, images(8, 8, 1)),
  "ssm": (Ssm, images(6, 16)),
  "decoder": (Decoder, jnp.arange(14).reshape(2, 7) % 40),
}
