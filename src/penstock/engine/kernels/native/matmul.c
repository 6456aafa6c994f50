/* Activations times weights.

   Weights lie in panels of 32 outputs. A panel holds, step by step along the
   inputs, four bytes for each of its outputs: 4 inputs in int8, 2 in bf16; in
   int4 the low halves of the bytes are one step and the high halves the next.
   Activations lie row by row; a step of a row is four bytes too. One product
   instruction then takes a step of 16 outputs and one row, whatever the format.

   Quantized weights are unsigned, w + 128 or w + 8, and activations signed: what
   the offset adds is the same for all outputs of a row, and the sums start with
   its negative. */
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "simd.h"
#include "team.h"

enum Format { BF16, INT8, INT4 };
enum Output { STORE_BF16, STORE_FP32, ADD_FP32, GATED_BF16 };

#define PANEL 32
#define MOST_ROWS 12 /* of a tile: 24 sums and what feeds them fill the registers */
#define MOST_ROWS_INT4 6
#define RUN_BYTES (512 << 10)   /* of weights that one thread goes through at once, few rows long */
#define BLOCK_BYTES (384 << 10) /* of activations, to stay in the second cache */

typedef struct {
  const uint8_t *data;
  const float *scale; /* int8: [outputs]; int4: [inputs / group][outputs]; both padded */
  const float *bias;  /* [outputs] or NULL */
  int64_t outputs, inputs;
  int32_t format, group;
  int32_t gated; /* a panel is 16 gates, then the 16 values they belong to */
} Linear;

/* Rows in the format a matrix multiplies. */
typedef struct {
  uint8_t *data;
  int64_t stride;  /* bytes of a row */
  float *scale;    /* [rows] */
  int32_t *offset; /* [rows][groups], what the sums start with */
  int64_t groups;
} Rows;

static int64_t up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

static int64_t padded_inputs(const Linear *w) {
  return up(w->inputs, w->format == INT4 ? w->group : w->format == INT8 ? 64 : 32);
}

static int64_t steps_of(const Linear *w) {
  return padded_inputs(w) / (w->format == BF16 ? 2 : 4);
}

static int64_t panel_bytes(const Linear *w) {
  return steps_of(w) * (w->format == INT4 ? 64 : 128);
}

static int64_t panels_of(const Linear *w) {
  return w->gated ? up(w->outputs / 2, 16) / 16 : up(w->outputs, PANEL) / PANEL;
}

/* Which row of the weights is output `lane` of a panel, or -1 for padding. */
static int64_t output_at(const Linear *w, int64_t panel, int lane) {
  int64_t most = w->gated ? w->outputs / 2 : w->outputs;
  int64_t at = w->gated ? panel * 16 + lane % 16 : panel * PANEL + lane;
  if (at >= most) return -1;
  return w->gated && lane >= 16 ? most + at : at;
}

/* Preparing rows. */

typedef struct {
  const float *x; /* fp32 [rows][inputs], or NULL, and then */
  const bf16 *h;  /* bf16 [rows][inputs] */
  const float *norm; /* [inputs] or NULL */
  float eps;
  const Linear *w;
  Rows to;
  int64_t rows;
  _Atomic int64_t next;
} Prepare;

/* Root mean square normalisation (Zhang & Sennrich 2019): the factor of the whole row. */
static float norm_factor(const float *x, int64_t n, float eps) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; i += 16) {
    __m512 v = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  return 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(sum) / n + eps);
}

static void prepare_row(const Prepare *p, int64_t row) {
  const Linear *w = p->w;
  int64_t n = w->inputs, padded = padded_inputs(w);
  float *y = scratch(padded * sizeof(float));
  const float *x = p->x ? p->x + row * n : NULL;
  float factor = p->norm ? norm_factor(x, n, p->eps) : 1.0f;
  __m512 most = _mm512_setzero_ps();
  for (int64_t i = 0; i < padded; i += 16) {
    __mmask16 mask = lanes(n - i);
    __m512 v = x ? _mm512_maskz_loadu_ps(mask, x + i) : load_bf16(p->h + row * n + i, mask);
    if (p->norm)
      v = _mm512_mul_ps(_mm512_mul_ps(v, _mm512_set1_ps(factor)),
                        _mm512_maskz_loadu_ps(mask, p->norm + i));
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
    _mm512_storeu_ps(y + i, v);
  }
  uint8_t *to = p->to.data + row * p->to.stride;
  if (w->format == BF16) {
    for (int64_t i = 0; i < padded; i += 16)
      store_bf16((bf16 *)to + i, _mm512_loadu_ps(y + i), 0xffff);
    return;
  }
  float largest = _mm512_reduce_max_ps(most);
  float scale = largest / 127.0f;
  __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
  int64_t group = w->format == INT4 ? w->group : padded;
  int32_t zero = w->format == INT4 ? 8 : 128;
  for (int64_t g = 0; g < p->to.groups; g++) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = g * group; i < (g + 1) * group; i += 16) {
      __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(y + i), inverse));
      sum = _mm512_add_epi32(sum, q);
      _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtepi32_epi8(q));
    }
    p->to.offset[row * p->to.groups + g] = -zero * _mm512_reduce_add_epi32(sum);
  }
  p->to.scale[row] = scale;
}

#define ROWS_AT_ONCE 4

static void prepare_some(void *arg, int thread) {
  (void)thread;
  Prepare *p = arg;
  int64_t item, items = (p->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  while ((item = take(&p->next, items)) >= 0)
    for (int64_t row = item * ROWS_AT_ONCE; row < p->rows && row < (item + 1) * ROWS_AT_ONCE; row++)
      prepare_row(p, row);
}

/* Multiplying. */

typedef struct {
  const Linear *w;
  Rows a;
  int64_t rows, rows_a_block, run; /* `run`: panels that one thread takes at once */
  void *out;
  enum Output output;
  _Atomic int64_t next;
} Multiply;

INLINE void finish(const int rows, __m512 sums[][2], const Multiply *m, int64_t row,
                   int64_t panel) {
  const Linear *w = m->w;
  int64_t width = w->gated ? w->outputs / 2 : w->outputs;
  int64_t at = panel * (w->gated ? 16 : PANEL);
  __m512 bias[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t second = w->gated ? width + at : at + 16;
  __mmask16 mask[2] = {lanes(width - at), lanes(w->gated ? width - at : width - at - 16)};
  if (w->bias) {
    bias[0] = _mm512_maskz_loadu_ps(mask[0], w->bias + at);
    bias[1] = _mm512_maskz_loadu_ps(mask[1], w->bias + second);
  }
  UNROLL for (int r = 0; r < rows; r++) {
    __m512 first = _mm512_add_ps(sums[r][0], bias[0]), last = _mm512_add_ps(sums[r][1], bias[1]);
    int64_t to = (row + r) * width + at;
    if (m->output == GATED_BF16) {
      store_bf16((bf16 *)m->out + to, _mm512_mul_ps(silu_16(first), last), mask[0]);
    } else if (m->output == STORE_BF16) {
      store_bf16((bf16 *)m->out + to, first, mask[0]);
      store_bf16((bf16 *)m->out + to + 16, last, mask[1]);
    } else {
      float *out = (float *)m->out + to;
      if (m->output == ADD_FP32) {
        first = _mm512_add_ps(first, _mm512_maskz_loadu_ps(mask[0], out));
        last = _mm512_add_ps(last, _mm512_maskz_loadu_ps(mask[1], out + 16));
      }
      _mm512_mask_storeu_ps(out, mask[0], first);
      _mm512_mask_storeu_ps(out + 16, mask[1], last);
    }
  }
}

#define AHEAD 2048 /* bytes of weights fetched before their turn: no prefetcher crosses a page */

INLINE int32_t four(const uint8_t *from) {
  int32_t x;
  memcpy(&x, from, 4);
  return x;
}

INLINE void tile_bf16(const int rows, const Multiply *m, int64_t row, int64_t panel) {
  const uint8_t *a = m->a.data + row * m->a.stride, *b = m->w->data + panel * panel_bytes(m->w);
  const int64_t stride = m->a.stride, steps = steps_of(m->w);
  __m512 sums[MOST_ROWS][2];
  UNROLL for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t s = 0; s < steps; s++, b += 128, a += 4) {
    __m512bh low = (__m512bh)_mm512_loadu_si512(b), high = (__m512bh)_mm512_loadu_si512(b + 64);
    if (rows <= 4) {
      _mm_prefetch(b + AHEAD, _MM_HINT_T0);
      _mm_prefetch(b + AHEAD + 64, _MM_HINT_T0);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      __m512bh x = (__m512bh)_mm512_set1_epi32(four(a + r * stride));
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], low, x);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], high, x);
    }
  }
  finish(rows, sums, m, row, panel);
}

INLINE void tile_int8(const int rows, const Multiply *m, int64_t row, int64_t panel) {
  const uint8_t *a = m->a.data + row * m->a.stride, *b = m->w->data + panel * panel_bytes(m->w);
  const int64_t stride = m->a.stride, steps = steps_of(m->w);
  __m512i sums[MOST_ROWS][2];
  UNROLL for (int r = 0; r < rows; r++)
    sums[r][0] = sums[r][1] = _mm512_set1_epi32(m->a.offset[row + r]);
  for (int64_t s = 0; s < steps; s++, b += 128, a += 4) {
    __m512i low = _mm512_loadu_si512(b), high = _mm512_loadu_si512(b + 64);
    if (rows <= 4) {
      _mm_prefetch(b + AHEAD, _MM_HINT_T0);
      _mm_prefetch(b + AHEAD + 64, _MM_HINT_T0);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      __m512i x = _mm512_set1_epi32(four(a + r * stride));
      dot_bytes(&sums[r][0], low, x);
      dot_bytes(&sums[r][1], high, x);
    }
  }
  const float *scale = m->w->scale + panel * PANEL;
  __m512 scales[2] = {_mm512_loadu_ps(scale), _mm512_loadu_ps(scale + 16)}, out[MOST_ROWS][2];
  UNROLL for (int r = 0; r < rows; r++) {
    __m512 x = _mm512_set1_ps(m->a.scale[row + r]);
    UNROLL for (int j = 0; j < 2; j++)
      out[r][j] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][j]), _mm512_mul_ps(scales[j], x));
  }
  finish(rows, out, m, row, panel);
}

INLINE void tile_int4(const int rows, const Multiply *m, int64_t row, int64_t panel) {
  const uint8_t *a = m->a.data + row * m->a.stride, *b = m->w->data + panel * panel_bytes(m->w);
  const int64_t stride = m->a.stride, groups = m->a.groups, width = panels_of(m->w) * PANEL;
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 out[MOST_ROWS_INT4][2];
  UNROLL for (int r = 0; r < rows; r++) out[r][0] = out[r][1] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; g++) {
    __m512i sums[MOST_ROWS_INT4][2];
    UNROLL for (int r = 0; r < rows; r++)
      sums[r][0] = sums[r][1] = _mm512_set1_epi32(m->a.offset[(row + r) * groups + g]);
    for (int64_t s = 0; s < m->w->group / 8; s++, b += 128, a += 8) {
      __m512i low = _mm512_loadu_si512(b), high = _mm512_loadu_si512(b + 64);
      if (rows <= 4) {
        _mm_prefetch(b + AHEAD, _MM_HINT_T0);
        _mm_prefetch(b + AHEAD + 64, _MM_HINT_T0);
      }
      __m512i low1 = _mm512_and_si512(low, nibble), high1 = _mm512_and_si512(high, nibble);
      __m512i low2 = _mm512_and_si512(_mm512_srli_epi16(low, 4), nibble);
      __m512i high2 = _mm512_and_si512(_mm512_srli_epi16(high, 4), nibble);
      UNROLL for (int r = 0; r < rows; r++) {
        __m512i x = _mm512_set1_epi32(four(a + r * stride));
        dot_bytes(&sums[r][0], low1, x);
        dot_bytes(&sums[r][1], high1, x);
        x = _mm512_set1_epi32(four(a + r * stride + 4));
        dot_bytes(&sums[r][0], low2, x);
        dot_bytes(&sums[r][1], high2, x);
      }
    }
    const float *scale = m->w->scale + g * width + panel * PANEL;
    __m512 scales[2] = {_mm512_loadu_ps(scale), _mm512_loadu_ps(scale + 16)};
    UNROLL for (int r = 0; r < rows; r++)
      UNROLL for (int j = 0; j < 2; j++)
        out[r][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][j]), scales[j], out[r][j]);
  }
  UNROLL for (int r = 0; r < rows; r++) {
    __m512 x = _mm512_set1_ps(m->a.scale[row + r]);
    UNROLL for (int j = 0; j < 2; j++) out[r][j] = _mm512_mul_ps(out[r][j], x);
  }
  finish(rows, out, m, row, panel);
}

#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define EACH_INT4(X) X(1) X(2) X(3) X(4) X(5) X(6)

static void tile(const Multiply *m, int rows, int64_t row, int64_t panel) {
#define CASE(R) \
  case R: tile_bf16(R, m, row, panel); return;
  if (m->w->format == BF16) switch (rows) { EACH(CASE) }
#undef CASE
#define CASE(R) \
  case R: tile_int8(R, m, row, panel); return;
  if (m->w->format == INT8) switch (rows) { EACH(CASE) }
#undef CASE
#define CASE(R) \
  case R: tile_int4(R, m, row, panel); return;
  switch (rows) { EACH_INT4(CASE) }
#undef CASE
}

static void multiply_some(void *arg, int thread) {
  (void)thread;
  Multiply *m = arg;
  int64_t panels = panels_of(m->w), most = m->w->format == INT4 ? MOST_ROWS_INT4 : MOST_ROWS;
  int64_t blocks = (m->rows + m->rows_a_block - 1) / m->rows_a_block, item;
  int64_t runs = (panels + m->run - 1) / m->run;
  while ((item = take(&m->next, blocks * runs)) >= 0) {
    int64_t first = item % runs * m->run, last = first + m->run < panels ? first + m->run : panels;
    int64_t begin = item / runs * m->rows_a_block;
    int64_t end = begin + m->rows_a_block < m->rows ? begin + m->rows_a_block : m->rows;
    for (int64_t panel = first; panel < last; panel++)
      for (int64_t row = begin, tiles = (end - row + most - 1) / most; tiles > 0; tiles--) {
        int64_t rows = (end - row) / tiles; /* tiles of nearly one height */
        tile(m, (int)rows, row, panel);
        row += rows;
      }
  }
}

/* Room for prepared rows: one operation at a time has it. */
static _Thread_local struct { uint8_t *data; float *scale; int32_t *offset; int64_t size, rows, sums; } room;

static Rows rows_for(const Linear *w, int64_t rows) {
  Rows to = {.stride = padded_inputs(w) * (w->format == BF16 ? 2 : 1)};
  to.groups = w->format == INT4 ? padded_inputs(w) / w->group : 1;
  if (rows * to.stride > room.size) {
    free(room.data);
    room.data = aligned_alloc(64, up(room.size = rows * to.stride, 64));
  }
  if (rows > room.rows) {
    free(room.scale);
    room.scale = malloc((room.rows = rows) * sizeof(float));
  }
  if (rows * to.groups > room.sums) {
    free(room.offset);
    room.offset = malloc((room.sums = rows * to.groups) * sizeof(int32_t));
  }
  if (!room.data || !room.scale || !room.offset) abort();
  to.data = room.data;
  to.scale = room.scale;
  to.offset = room.offset;
  return to;
}

/* out = w(norm(in)). `x` fp32 or else `h` bf16 is [rows, inputs]; `norm` fp32 [inputs] or NULL. */
void penstock_linear(const float *x, const bf16 *h, const float *norm, float eps, const Linear *w,
                     void *out, int output, int64_t rows) {
  if (rows == 0) return;
  Prepare prepare = {x, h, norm, eps, w, rows_for(w, rows), rows, 0};
  if (rows < 2 * ROWS_AT_ONCE)
    prepare_some(&prepare, 0);
  else
    team_run(prepare_some, &prepare);
  int64_t block = BLOCK_BYTES / prepare.to.stride;
  block = block < MOST_ROWS ? MOST_ROWS : block / MOST_ROWS * MOST_ROWS;
  int64_t run = rows > 4 ? 1 : up(RUN_BYTES, panel_bytes(w)) / panel_bytes(w);
  Multiply multiply = {w, prepare.to, rows, block, run, out, output, 0};
  team_run(multiply_some, &multiply);
}

/* Packing. */

typedef struct {
  const Linear *w;
  const void *from; /* [outputs, inputs], bf16 or fp32 */
  int64_t wide;     /* fp32 */
  const float *factor; /* [inputs]: what to multiply each column by, or NULL */
  uint8_t *data;
  float *scale;
  _Atomic int64_t next;
} Pack;

/* The weight farthest from 0. */
static float extreme(const float *from, int64_t count) {
  float found = 0;
  for (int64_t i = 0; i < count; i++)
    if (__builtin_fabsf(from[i]) > __builtin_fabsf(found)) found = from[i];
  return found;
}

INLINE __m512 whole_int4(__m512 x, float scale) {
  __m512 q = _mm512_roundscale_ps(_mm512_div_ps(x, _mm512_set1_ps(scale)), 8);
  return _mm512_min_ps(_mm512_max_ps(q, _mm512_set1_ps(-8)), _mm512_set1_ps(7));
}

/* Scale of a group of int4 weights. The extreme one is -8 of it, or is cut off where a
   smaller scale serves the others better: the least squared error of eight decides. */
static float scale_int4(const float *from, int64_t count) {
  float edge = extreme(from, count) / -8, best = edge, least = __builtin_inff();
  for (int tried = 0; tried < 8 && edge != 0; tried++) {
    float scale = edge * (1 - 0.05f * tried);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) {
      __m512 x = _mm512_maskz_loadu_ps(lanes(count - i), from + i);
      __m512 off = _mm512_fnmadd_ps(whole_int4(x, scale), _mm512_set1_ps(scale), x);
      sum = _mm512_fmadd_ps(off, off, sum);
    }
    float error = _mm512_reduce_add_ps(sum);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

static int whole(float x, float scale, int low, int high) {
  if (scale == 0) return 0;
  int q = (int)__builtin_rintf(x / scale);
  return q > high ? high : q < low ? low : q;
}

static void pack_output(const Pack *p, int64_t panel, int lane, const float *from) {
  const Linear *w = p->w;
  uint8_t *to = p->data + panel * panel_bytes(w) + lane * 4;
  int64_t padded = padded_inputs(w), at = panel * PANEL + lane;
  if (w->format == BF16) {
    for (int64_t i = 0; i < padded; i++) {
      bf16 x = to_bf16(from && i < w->inputs ? from[i] : 0);
      memcpy(to + i / 2 * 128 + i % 2 * 2, &x, 2);
    }
    return;
  }
  int zero = w->format == INT8 ? 128 : 8, low = w->format == INT8 ? -127 : -8;
  int64_t group = w->format == INT8 ? padded : w->group, width = panels_of(w) * PANEL;
  for (int64_t g = 0; g < padded / group; g++) {
    int64_t left = w->inputs - g * group, count = left < group ? left : group;
    float scale = 0;
    if (from && w->format == INT8) scale = __builtin_fabsf(extreme(from, count)) / 127;
    if (from && w->format == INT4) scale = scale_int4(from + g * group, count);
    p->scale[g * width + at] = scale;
    for (int64_t i = g * group; i < (g + 1) * group; i++) {
      int q = zero + (from && i < w->inputs ? whole(from[i], scale, low, zero - 1) : 0);
      if (w->format == INT8)
        to[i / 4 * 128 + i % 4] = (uint8_t)q;
      else
        to[i / 8 * 128 + i % 4] |= (uint8_t)(q << (i % 8 < 4 ? 0 : 4));
    }
  }
}

static void read_row(const void *from, int64_t wide, int64_t row, int64_t n, float *to) {
  for (int64_t i = 0; i < n; i++)
    to[i] = wide ? ((const float *)from)[row * n + i] : from_bf16(((const bf16 *)from)[row * n + i]);
}

static void pack_some(void *arg, int thread) {
  (void)thread;
  Pack *p = arg;
  int64_t panel;
  while ((panel = take(&p->next, panels_of(p->w))) >= 0) {
    memset(p->data + panel * panel_bytes(p->w), 0, panel_bytes(p->w));
    for (int lane = 0; lane < PANEL; lane++) {
      int64_t output = output_at(p->w, panel, lane), n = p->w->inputs;
      float *row = scratch(n * sizeof(float));
      if (output >= 0) read_row(p->from, p->wide, output, n, row);
      for (int64_t i = 0; p->factor && output >= 0 && i < n; i++) row[i] *= p->factor[i];
      pack_output(p, panel, lane, output < 0 ? NULL : row);
    }
  }
}

/* Ask for large pages where nothing was written yet. */
void penstock_large_pages(void *at, int64_t bytes) { madvise(at, bytes, MADV_HUGEPAGE); }

/* Bytes of the panels, and how many scales go with them. */
void penstock_sizes(const Linear *w, int64_t *bytes, int64_t *scales) {
  *bytes = panels_of(w) * panel_bytes(w);
  int64_t groups = w->format == INT4 ? padded_inputs(w) / w->group : w->format == INT8;
  *scales = groups * panels_of(w) * PANEL;
}

/* The largest magnitude in each column of [outputs, inputs]. */
void penstock_columns(const void *from, int64_t wide, int64_t outputs, int64_t inputs, float *to) {
  float *row = scratch(inputs * sizeof(float));
  memset(to, 0, inputs * sizeof(float));
  for (int64_t output = 0; output < outputs; output++) {
    read_row(from, wide, output, inputs, row);
    for (int64_t i = 0; i < inputs; i++) {
      float size = __builtin_fabsf(row[i]);
      to[i] = size > to[i] ? size : to[i];
    }
  }
}

/* Fill `data` and `scale` of a matrix from [outputs, inputs], fp32 if `wide`, else bf16. */
void penstock_pack(const Linear *w, const void *from, int64_t wide, const float *factor,
                   uint8_t *data, float *scale) {
  Pack pack = {w, from, wide, factor, data, scale, 0};
  team_run(pack_some, &pack);
}

/* Rows of a matrix that is not gated, as numbers again: fp32 [count, inputs]. */
void penstock_unpack(const Linear *w, const int64_t *which, int64_t count, float *to) {
  int64_t width = panels_of(w) * PANEL;
  for (int64_t row = 0; row < count; row++, to += w->inputs) {
    int64_t panel = which[row] / PANEL, lane = which[row] % PANEL;
    const uint8_t *from = w->data + panel * panel_bytes(w) + lane * 4;
    for (int64_t i = 0; i < w->inputs; i++) {
      if (w->format == BF16) {
        bf16 x;
        memcpy(&x, from + i / 2 * 128 + i % 2 * 2, 2);
        to[i] = from_bf16(x);
      } else if (w->format == INT8) {
        to[i] = (from[i / 4 * 128 + i % 4] - 128) * w->scale[which[row]];
      } else {
        int q = from[i / 8 * 128 + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15;
        to[i] = (q - 8) * w->scale[i / w->group * width + which[row]];
      }
    }
  }
}
