/* How K and V lie, and what they are kept as.

   In tiles of 16 slots, so that one product instruction serves 16 slots, or 16 numbers
   of some slots, and nothing is summed across lanes. In bf16 a tile of K is
   [head_dim / 2][16 slots][2] and a tile of V [8][head_dim][2 slots]; in int8 both have
   4 for 2, and K is unsigned, k + 128.

   int4 is int8 with two numbers in a byte: in K those of two neighbours of head_dim / 4,
   in V those of two neighbours of head_dim / 16, so that a byte is one slot's and half a
   vector of bytes is a vector of int8. A head is spread by Hadamard's matrix first. */
#ifndef PENSTOCK_PAGES_H
#define PENSTOCK_PAGES_H

#include <math.h>
#include <string.h>

#include "simd.h"

#define SLOTS 16
#define MOST_DIM 512

typedef struct {
  uint8_t *data; /* [2 * kv_heads][pages][page_size] slots, K first, in tiles */
  void *scale;   /* [2 * kv_heads][pages][page_size]: float in int8, Grid in int4 */
  int64_t kv_heads, head_dim, pages, page_size;
  int64_t bits; /* of a number: 16, 8, 4 */
} Pages;

/* For numbers u of 0..15: middle + (u - 7.5) * scale. */
typedef struct {
  bf16 scale, middle;
} Grid;

/* Bytes of a slot of one head's K or V. */
INLINE int64_t slot_bytes(int bits, int64_t head_dim) {
  return bits == 4 ? (head_dim + 31) / 32 * 16 : head_dim * bits / 8;
}

/* Where a slot of one head's K or V lies, counted in slots. */
static inline int64_t slot_at(const Pages *p, int64_t row, int64_t page, int64_t offset) {
  return (row * p->pages + page) * p->page_size + offset;
}

/* The tile that holds it. */
static inline uint8_t *tile_at(const Pages *p, int64_t slot) {
  return p->data + slot / SLOTS * SLOTS * slot_bytes((int)p->bits, p->head_dim);
}

/* What its numbers are multiples of: 4 bytes in int8 and in int4. */
static inline uint8_t *scale_at(const Pages *p, int64_t slot) {
  return (uint8_t *)p->scale + 4 * slot;
}

/* Multiply by an orthonormal Hadamard matrix, in blocks of the power of two in `n`. */
static void hadamard(float *x, int64_t n) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const int64_t block = n & -n;
  const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)block));
  for (int64_t i = 0; i < n; i += 16) {
    __m512 a = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
    UNROLL for (int h = 1; h < 16; h *= 2) {
      const __m512i bit = _mm512_set1_epi32(h);
      __m512 b = _mm512_permutexvar_ps(_mm512_xor_si512(lane, bit), a);
      a = _mm512_mask_sub_ps(_mm512_add_ps(a, b), _mm512_test_epi32_mask(lane, bit), b, a);
    }
    _mm512_storeu_ps(x + i, a);
  }
  for (int64_t h = 16; h < block; h *= 2)
    for (int64_t i = 0; i < n; i += 16) {
      if (i & h) continue;
      __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + h);
      _mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
      _mm512_storeu_ps(x + i + h, _mm512_sub_ps(a, b));
    }
}

/* A head's `n` numbers as they are quantized. */
static void widen(const bf16 *from, int64_t n, int bits, float *to) {
  for (int64_t i = 0; i < n; i += 16) _mm512_storeu_ps(to + i, load_bf16(from + i, 0xffff));
  if (bits == 4) hadamard(to, n);
}

/* Quantize `n` floats to signed bytes; returns the scale. */
static float quantize(const float *from, int64_t n, int8_t *to) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 16)
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(from + i)));
  float largest = _mm512_reduce_max_ps(most);
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(from + i), inverse);
    _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  return largest / 127.0f;
}

#endif
