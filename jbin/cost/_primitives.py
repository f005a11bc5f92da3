"""The primitives of JAX by what they mean for cost."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
  return frozenset(text.split())


# Primitives that call one inner jaxpr with their own operands, and the
# parameter that holds it.
CALLS = {
  "jit": "jaxpr",
  "closed_call": "call_jaxpr",
  "call": "call_jaxpr",
  "remat2": "jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "custom_vmap_call": "call",
  "custom_partitioning": "call",
  "composite": "jaxpr",
  "shard_map": "jaxpr",
}

# The value is the same: bits, scales and axes stay.
IDENTITIES = _names(
  "convert_element_type copy stop_gradient reduce_precision"
  " optimization_barrier device_put sharding_constraint layout_constraint"
  " reshard pvary pbroadcast vary_unreduced_cast_p"
  " reduced_vary_cast_p preduced pin unpin neg"
)

# One scalar operation for each element of the result.
ELEMENTWISE = _names(
  "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e"
  " bessel_i1e bitcast_convert_type cbrt ceil clamp clz complex conj cos cosh"
  " digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma"
  " igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log"
  " log1p logistic lt lt_to max min mul mulhi ne neg nextafter not or"
  " polygamma pow real reciprocal regularized_incomplete_beta rem round rsqrt"
  " select_n shift_left shift_right_arithmetic shift_right_logical sign sin"
  " sinh sqrt square sub tan tanh xor zeta"
)

# One scalar operation for each element of the operand.
REDUCTIONS = _names(
  "argmax argmin reduce reduce_and reduce_max reduce_min reduce_or"
  " reduce_prod reduce_sum reduce_xor"
)

# One scalar operation for each element of each window.
WINDOWS = _names(
  "reduce_window reduce_window_max reduce_window_min reduce_window_sum"
  " select_and_gather_add select_and_scatter select_and_scatter_add"
)

# Data movement and bookkeeping: no arithmetic to speak of.
FREE = _names(
  "after_all axis_index broadcast_in_dim broadcast_to concatenate"
  " create_token debug_callback debug_print dimension_size"
  " dynamic_slice dynamic_update_slice empty empty2 from_edtype gather"
  " inspect_sharding iota iota_2x32_shape name pad rev reshape"
  " scatter slice split squeeze stack tie"
  " tile to_edtype transpose unstack zeros_like random_bits random_clone"
  " random_fold_in random_seed random_split random_unwrap random_wrap"
  " rng_bit_generator rng_uniform threefry2x32 philox2x32 shape_assertion"
  " check platform_index with_memory_space_constraint"
)

# One scalar operation for each element of the updates.
SCATTERS = _names("scatter-add scatter-max scatter-min scatter-mul scatter-sub")

# Transfers between devices: listed by bytes and mesh axes.
COLLECTIVES = _names(
  "psum psum_invariant pmax pmin ppermute all_to_all all_gather"
  " all_gather_invariant all_gather_reduced reduce_scatter ragged_all_to_all"
  " unreduced_psum unreduced_reduce_scatter"
)

COUNTED = IDENTITIES | ELEMENTWISE | REDUCTIONS | WINDOWS | SCATTERS | FREE
COUNTED |= COLLECTIVES

# No product hides in these; they are listed with their elements, since what
# they cost depends on the device.
LISTED = {
  "cumsum": "its additions depend on the algorithm of the device",
  "cumprod": "its multiplications depend on the algorithm of the device",
  "cummax": "its comparisons depend on the algorithm of the device",
  "cummin": "its comparisons depend on the algorithm of the device",
  "cumlogsumexp": "its operations depend on the algorithm of the device",
  "sort": "its comparisons depend on the algorithm of the device",
  "top_k": "its comparisons depend on the algorithm of the device",
  "approx_top_k": "its comparisons depend on the algorithm of the device",
  "fft": "its butterflies are no product of this form",
  "random_gamma": "its trials depend on what is drawn",
}

# Why a primitive that may hide products is not guessed at.
OPAQUE = {
  "while": "the number of trips is not known before the program runs; give"
  " trips",
  "pallas_call": "a kernel is opaque to the counter; register its cost",
  "ffi_call": "a foreign function is opaque; register its cost",
  "pure_callback": "a call into Python is opaque to the counter",
  "io_callback": "a call into Python is opaque to the counter",
  "custom_linear_solve": "a solver is opaque to the counter",
  "population_count": "it may be a product of packed bits",
}
OPAQUE |= dict.fromkeys(
  _names(
    "cholesky eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr"
    " schur svd triangular_solve tridiagonal tridiagonal_solve"
  ),
  "what a factorization or a solver multiplies depends on the algorithm",
)
# What these make is the same at each run, if their operands are: anything else
# may read a state or draw numbers.
STEADY = COUNTED | LISTED.keys() | OPAQUE.keys()
STEADY |= _names("dot_general conv_general_dilated ragged_dot_general")
STEADY -= _names(
  "random_bits random_gamma rng_bit_generator rng_uniform threefry2x32"
  " philox2x32 ffi_call io_callback"
)
NO_RULE = "jbin.cost has no rule for this primitive"
