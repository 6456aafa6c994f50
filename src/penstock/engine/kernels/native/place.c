/* What comes before attention: head norms, rotation, storing K and V. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "pages.h"
#include "simd.h"
#include "team.h"

typedef struct {
  const bf16 *y; /* [rows][(heads + 2 * kv_heads) * head_dim], or heads alone */
  int64_t rows, heads;
  int64_t own; /* whether y holds K and V too */
  const float *q_norm, *k_norm; /* [head_dim] or NULL */
  float eps;
  const float *angles; /* [rows][2][head_dim / 2], cosines first */
  const int64_t *slots;
  const Pages *pages;
  bf16 *q; /* [rows][heads][head_dim] */
  int64_t each; /* rows that one thread takes at a time */
  _Atomic int64_t next;
} Place;

static void rotate(const bf16 *from, const float *norm, float eps, const float *angles, int64_t n,
                   bf16 *to) {
  float factor = 1.0f;
  if (norm) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 16) {
      __m512 x = load_bf16(from + i, lanes(n - i));
      sum = _mm512_fmadd_ps(x, x, sum);
    }
    factor = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / n + eps);
  }
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i += 16) {
    __mmask16 mask = lanes(half - i);
    __m512 a = load_bf16(from + i, mask), b = load_bf16(from + half + i, mask);
    if (norm) {
      __m512 f = _mm512_set1_ps(factor);
      a = _mm512_mul_ps(_mm512_mul_ps(a, f), _mm512_maskz_loadu_ps(mask, norm + i));
      b = _mm512_mul_ps(_mm512_mul_ps(b, f), _mm512_maskz_loadu_ps(mask, norm + half + i));
    }
    __m512 cos = _mm512_maskz_loadu_ps(mask, angles + i);
    __m512 sin = _mm512_maskz_loadu_ps(mask, angles + half + i);
    store_bf16(to + i, _mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)), mask);
    store_bf16(to + half + i, _mm512_fmadd_ps(b, cos, _mm512_mul_ps(a, sin)), mask);
  }
}

/* Quantize `n` floats to 0..15, a byte each. */
static Grid quantize_to_grid(const float *from, int64_t n, uint8_t *to) {
  __m512 low = _mm512_loadu_ps(from), high = low;
  for (int64_t i = 16; i < n; i += 16) {
    low = _mm512_min_ps(low, _mm512_loadu_ps(from + i));
    high = _mm512_max_ps(high, _mm512_loadu_ps(from + i));
  }
  float least = _mm512_reduce_min_ps(low), most = _mm512_reduce_max_ps(high);
  Grid grid = {.scale = to_bf16((most - least) / 15.0f)};
  float scale = from_bf16(grid.scale);
  grid.middle = to_bf16((least + most) / 2.0f);
  __m512 inverse = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
  __m512 middle = _mm512_set1_ps(from_bf16(grid.middle));
  const __m512i first = _mm512_setzero_si512(), last = _mm512_set1_epi32(15);
  for (int64_t i = 0; i < n; i += 16) {
    __m512 x = _mm512_sub_ps(_mm512_loadu_ps(from + i), middle);
    __m512i u = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, inverse, _mm512_set1_ps(7.5f)));
    u = _mm512_min_epi32(_mm512_max_epi32(u, first), last);
    _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(u));
  }
  return grid;
}

/* Quantize one head's K or V into `whole`, and put its scale to slot `slot`. */
static void quantize_slot(const Pages *p, int64_t slot, const bf16 *from, uint8_t *whole) {
  int64_t n = p->head_dim;
  float wide[MOST_DIM];
  widen(from, n, (int)p->bits, wide);
  if (p->bits == 4) {
    Grid grid = quantize_to_grid(wide, n, whole);
    memcpy(scale_at(p, slot), &grid, sizeof grid);
  } else {
    float scale = quantize(wide, n, (int8_t *)whole);
    memcpy(scale_at(p, slot), &scale, sizeof scale);
  }
}

static void store_k(const Pages *p, int64_t slot, const bf16 *k) {
  int64_t n = p->head_dim, lane = slot % SLOTS;
  uint8_t *tile = tile_at(p, slot) + lane * 4;
  if (p->bits == 16) {
    for (int64_t i = 0; i < n; i += 2) memcpy(tile + i / 2 * 64, k + i, 4);
    return;
  }
  uint8_t whole[MOST_DIM];
  quantize_slot(p, slot, k, whole);
  if (p->bits == 8) {
    for (int64_t i = 0; i < n; i += 4) {
      uint32_t four;
      memcpy(&four, whole + i, 4);
      four ^= 0x80808080u; /* k + 128 */
      memcpy(tile + i / 4 * 64, &four, 4);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += 8) {
    uint32_t low, high;
    memcpy(&low, whole + i, 4);
    memcpy(&high, whole + i + 4, 4);
    low |= high << 4;
    memcpy(tile + i / 8 * 64, &low, 4);
  }
}

static void store_v(const Pages *p, int64_t slot, const bf16 *v) {
  int64_t n = p->head_dim, lane = slot % SLOTS;
  if (p->bits == 16) {
    bf16 *tile = (bf16 *)tile_at(p, slot) + lane / 2 * 2 * n + lane % 2;
    for (int64_t i = 0; i < n; i++) tile[i * 2] = v[i];
    return;
  }
  int64_t width = slot_bytes((int)p->bits, n);
  uint8_t whole[MOST_DIM] = {0}, *tile = tile_at(p, slot) + lane / 4 * 4 * width + lane % 4;
  quantize_slot(p, slot, v, whole);
  if (p->bits == 8)
    for (int64_t i = 0; i < n; i++) tile[i * 4] = whole[i];
  else
    for (int64_t i = 0; i < n; i += 32, tile += 64)
      for (int64_t j = i; j < i + 16; j++) tile[(j - i) * 4] = whole[j] | whole[j + 16] << 4;
}

static void place_queries(const Place *p, int64_t row, const bf16 *y) {
  int64_t n = p->pages->head_dim;
  for (int64_t h = 0; h < p->heads; h++)
    rotate(y + h * n, p->q_norm, p->eps, p->angles + row * n, n, p->q + (row * p->heads + h) * n);
}

static void place_kv(const Place *p, int64_t row, int64_t head, const bf16 *y) {
  const Pages *pages = p->pages;
  int64_t n = pages->head_dim, kv_heads = pages->kv_heads;
  int64_t page = p->slots[row] / pages->page_size, offset = p->slots[row] % pages->page_size;
  bf16 k[MOST_DIM];
  y += p->heads * n;
  rotate(y + head * n, p->k_norm, p->eps, p->angles + row * n, n, k);
  store_k(pages, slot_at(pages, head, page, offset), k);
  store_v(pages, slot_at(pages, kv_heads + head, page, offset), y + (kv_heads + head) * n);
}

static void place_some(void *arg, int thread) {
  (void)thread;
  Place *p = arg;
  int64_t kv_heads = p->own ? p->pages->kv_heads : 0, block;
  int64_t width = (p->heads + 2 * kv_heads) * p->pages->head_dim;
  while ((block = take(&p->next, (p->rows + p->each - 1) / p->each)) >= 0) {
    int64_t first = block * p->each, last = first + p->each;
    if (last > p->rows) last = p->rows;
    for (int64_t row = first; row < last; row++) place_queries(p, row, p->y + row * width);
    for (int64_t h = 0; h < kv_heads; h++)
      for (int64_t row = first; row < last; row++) place_kv(p, row, h, p->y + row * width);
  }
}

void penstock_place(const bf16 *y, int64_t rows, int64_t heads, int64_t own, const float *q_norm,
                    const float *k_norm, float eps, const float *angles, const int64_t *slots,
                    const Pages *pages, bf16 *q) {
  /* Neighbours of a prompt share tiles: two threads must not write to one in turn. */
  int64_t each = rows >= 2 * SLOTS ? SLOTS : 1;
  Place place = {y, rows, heads, own, q_norm, k_norm, eps, angles, slots, pages, q, each, 0};
  if (rows == 1)
    place_some(&place, 0);
  else
    team_run(place_some, &place);
}

typedef struct {
  const int64_t *positions;
  int64_t rows, half;
  const float *frequencies;
  float *to;
  _Atomic int64_t next;
} Angles;

static void angles_some(void *arg, int thread) {
  (void)thread;
  Angles *a = arg;
  int64_t row;
  while ((row = take(&a->next, a->rows)) >= 0)
    for (int64_t i = 0; i < a->half; i++) {
      float turn = (float)a->positions[row] * a->frequencies[i];
      a->to[row * 2 * a->half + i] = cosf(turn);
      a->to[(row * 2 + 1) * a->half + i] = sinf(turn);
    }
}

/* Rotary angles of each row: cosines, then sines. */
void penstock_angles(const int64_t *positions, int64_t rows, const float *frequencies, int64_t half,
                     float *to) {
  Angles angles = {positions, rows, half, frequencies, to, 0};
  team_run(angles_some, &angles);
}
