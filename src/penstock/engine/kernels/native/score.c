/* How likely a token of each row was: its log probability under the row's logits, and its rank. */
#include <math.h>
#include <stdatomic.h>

#include "simd.h"
#include "team.h"

typedef struct {
  const float *logits; /* [rows][vocabulary] */
  int64_t rows, vocabulary;
  const int64_t *tokens;
  float *logprobs;
  int64_t *ranks;
  _Atomic int64_t next;
} Score;

static void score_row(const Score *s, int64_t row) {
  const __m512 none = _mm512_set1_ps(-INFINITY), log2_e = _mm512_set1_ps(1.44269504f);
  const float *logits = s->logits + row * s->vocabulary;
  const float own = logits[s->tokens[row]];
  __m512 most = none;
  int64_t likelier = 0;
  for (int64_t i = 0; i < s->vocabulary; i += 16) {
    __m512 x = _mm512_mask_loadu_ps(none, lanes(s->vocabulary - i), logits + i);
    most = _mm512_max_ps(most, x);
    likelier += __builtin_popcount(_mm512_cmp_ps_mask(x, _mm512_set1_ps(own), _CMP_GT_OQ));
  }
  /* Four sums, so that one addition need not wait for the one before. */
  const float top = _mm512_reduce_max_ps(most);
  const __m512 shift = _mm512_set1_ps(top);
  __m512 sums[4];
  for (int j = 0; j < 4; j++) sums[j] = _mm512_setzero_ps();
  for (int64_t i = 0; i < s->vocabulary; i += 64)
    UNROLL for (int j = 0; j < 4; j++) {
      int64_t at = i + 16 * j;
      __m512 x = _mm512_mask_loadu_ps(none, lanes(s->vocabulary - at), logits + at);
      x = _mm512_mul_ps(_mm512_sub_ps(x, shift), log2_e);
      sums[j] = _mm512_add_ps(sums[j], exp2_16(x));
    }
  __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
  s->logprobs[row] = own - top - logf(_mm512_reduce_add_ps(sum));
  s->ranks[row] = likelier + 1;
}

static void score_some(void *arg, int thread) {
  (void)thread;
  Score *s = arg;
  int64_t row;
  while ((row = take(&s->next, s->rows)) >= 0) score_row(s, row);
}

void penstock_score(const float *logits, int64_t rows, int64_t vocabulary, const int64_t *tokens,
                    float *logprobs, int64_t *ranks) {
  Score score = {logits, rows, vocabulary, tokens, logprobs, ranks, 0};
  team_run(score_some, &score);
}
