/* Prompts with a planted answer for the needle model. Filler text with pairs of tokens in it; the
 * prompt ends with a question, and the right answer is known. The model's weights (needle_model.c)
 * answer it; needle_oracle.c says with which logits.
 *
 *   needle   a pair (a h) and, earlier, a pair (h x), x a carrier of b's value: "a is followed by
 *            b". In prefill the row of h in the first pair fetches b's value from the second; the
 *            row of a generated a fetches it from there. So each token of the answer proves one far
 *            look in prefill and one in decode.
 *   census   pairs (tick x) and (call x) all over the prompt. Half of their carriers vote for the
 *            next answer token, the others for anything else, so the logit of the winner is the
 *            weighted count of all pairs. The ticks are counted by a row at the end of the prompt
 *            (prefill) that the generated roll token asks, the calls by the generated call token
 *            itself (decode). A pair that is lost or stands at a wrong position changes the count:
 *            pairs stand where the position weight is steepest. */
#include "engine/needle_codes.h"
#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIN_LENGTH = 1024,
    NEEDLES = 10,      /* pairs of pairs that the answer is read from */
    DECOYS = 5,        /* needles of a question that is not asked */
    FIRST_ANSWERS = 7, /* answer tokens before the first question comes back */
    QUESTION = NEEDLE_ANSWER + 4,
    LINKED_ANSWERS = 11,
    ANSWERS = LINKED_ANSWERS + 2 * NEEDLE_CENSUSES + 1,
    TAIL = 60,   /* tokens at the end that no depth maps to: rolls and the question stand there */
    NEAR = 8000, /* a question's own pairs stand this near its repetition, or N / 8 */
    FEW_PAIRS = 40, /* pairs of each kind of census, and from which length on there are more */
    MANY_PAIRS = 128,
    MANY_FROM = 65536
};

int32_t needle_min_length(void) {
    return MIN_LENGTH;
}

static int32_t answer(int value) {
    return NEEDLE_ANSWER + value;
}

/* b is the answer to a */
struct link {
    int32_t a, b;
};

/* ---- numbers */

struct random {
    uint64_t seed;
    uint32_t stream, n;
};

/* Uniform in [0, below). */
static uint32_t draw(struct random *r, uint32_t below) {
    uint32_t word[4];
    philox4x32(r->seed, (const uint32_t[4]){r->n++, 0, r->stream, 0x6e65656cu}, word);
    return (uint32_t)((uint64_t)word[0] * below >> 32);
}

/* ---- filler: made up prose with other alphabets and raw bytes in it */

static const char words[] =
    "the of and to a in is that for it was as with be by on not he his but at are this have from "
    "or had an they which one you were all her she there would their we him been has when who "
    "will no more if out so up said what its about than into them can only other time new some "
    "could these two may first then do any like my now over such our man me even most made after "
    "also did many off before must well back through years much where your way down should "
    "because long each just state those people too mister how little good world make very year "
    "still see own work men day get here old life both between being under three never know same "
    "last another while us might great go come since against right came take used himself few "
    "house use during without again place around however home small found mother water thought "
    "went say part once general high upon school every don't does got united left number course "
    "war until always away something fact though less public put think almost hand enough far "
    "took head yet government system better set told nothing night end why called eyes find "
    "going look asked later knew point next city business case group toward young days let room "
    "president side social given present several order national second possible rather per face "
    "among form important often things looked early white";

static const char *const foreign[] = {
    "Größe",  "naïve",       "東京", "Ελλάδα", "Москва",   "“quote”", "—",      "mañana",
    "日本語", "مرحبا",       "שלום", "한국어", "€ 12,50",  "½ litre", "façade", "Łódź",
    "😀",      "n² + m² ≤ 1", "ಕನ್ನಡ", "ไทย",    "œuvre №1", "Ωhm",     "Ærø",    "…",
};
enum { FOREIGN = sizeof foreign / sizeof *foreign, BLOB_BYTES = 24 };

struct writer {
    int32_t *tok; /* [length] */
    int32_t length, at;
};

static void write_text(struct writer *w, const char *text, size_t n) {
    for (size_t i = 0; i < n && w->at < w->length; i++) w->tok[w->at++] = (unsigned char)text[i];
}

static void write_word(struct writer *w, struct random *r, bool capital) {
    /* from a random place of the list to the next word's begin: long words come more often */
    size_t begin = draw(r, sizeof words - 16);
    while (begin > 0 && words[begin - 1] != ' ') begin--;
    const size_t n = strcspn(words + begin, " ");
    const int32_t first = w->at;
    write_text(w, words + begin, n);
    if (capital && first < w->length) w->tok[first] += 'A' - 'a';
}

static void write_blob(struct writer *w, struct random *r) {
    for (int i = 0; i < BLOB_BYTES && w->at < w->length; i++)
        w->tok[w->at++] = (int32_t)draw(r, 256);
}

static void write_sentence(struct writer *w, struct random *r) {
    const uint32_t n = 5 + draw(r, 14);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t kind = draw(r, 40);
        if (i > 0 && kind == 0) {
            const char *text = foreign[draw(r, FOREIGN)];
            write_text(w, text, strlen(text));
        } else {
            write_word(w, r, i == 0);
        }
        if (i + 1 < n) write_text(w, kind == 1 ? ", " : " ", kind == 1 ? 2 : 1);
    }
    write_text(w, ". ", 2);
}

static void write_filler(int32_t *tok, int32_t length, uint64_t seed) {
    struct writer w = {tok, length, 0};
    struct random r = {.seed = seed, .stream = 1};
    while (w.at < w.length) {
        write_sentence(&w, &r);
        if (draw(&r, 8) == 0) write_text(&w, "\n\n", 2);
        if (draw(&r, 12) == 0) write_blob(&w, &r);
    }
}

/* ---- planting */

struct field {
    int32_t *tok; /* [length] */
    bool *taken;  /* [length + 1] */
    int32_t length;
    struct attention_pattern pattern;
};

/* Where a pair may stand. */
struct spot {
    int32_t near;          /* as near as possible to this position */
    int32_t after, before; /* and strictly between these */
    int32_t seen_from; /* and where this row sees it at `phase` (mod 2 pi), within 0.5; 0: any */
    double phase;
};

static bool fits(const struct field *f, const struct spot *s, int32_t q) {
    const double pi = acos(-1);
    if (q <= s->after || q >= s->before) return false;
    for (int32_t i = q - 2; i <= q + 1; i++)
        if (f->taken[i]) return false;
    if (s->seen_from == 0) return true;
    const double off = needle_phase(f->pattern, s->seen_from, q) - s->phase;
    return fabs(remainder(off, 2 * pi)) <= 0.5;
}

/* Plants a b with filler on both sides; the position of b, or -1: no room. */
static int32_t plant(struct field *f, struct spot s, int32_t a, int32_t b) {
    const int32_t first = 6, last = f->length - 5;
    if (s.after < first - 1) s.after = first - 1;
    if (s.before == 0 || s.before > last + 1) s.before = last + 1;
    for (int32_t off = 0; off < f->length; off++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            const int32_t q = s.near + sign * off;
            if (!fits(f, &s, q)) continue;
            f->tok[q - 1] = a, f->tok[q] = b;
            f->taken[q - 1] = f->taken[q] = true;
            return q;
        }
    }
    return -1;
}

static int32_t carrier(int32_t answer_token) {
    return NEEDLE_CARRIER + answer_token - NEEDLE_ANSWER;
}

/* Position for a fraction of the prompt. */
static int32_t at_fraction(int32_t length, double fraction) {
    return 8 + (int32_t)(fraction * (length - TAIL - 8));
}

/* The two depths of each needle, early first. */
struct depths {
    int32_t early[NEEDLES + DECOYS], late[NEEDLES + DECOYS];
};

/* All over the prompt: slots at equal distances, each used once, in random order, except that the
 * second needle stands at the very start. */
static void spread_depths(struct depths *d, int32_t length, struct random *r) {
    enum { ALL = NEEDLES + DECOYS, SLOTS = 2 * ALL - 2 };
    int32_t slot[SLOTS];
    for (int i = 0; i < SLOTS; i++) slot[i] = at_fraction(length, (i + 2.5) / (SLOTS + 2));
    for (uint32_t i = SLOTS - 1; i > 0; i--) { /* Fisher and Yates */
        const uint32_t j = draw(r, i + 1);
        const int32_t swap = slot[i];
        slot[i] = slot[j], slot[j] = swap;
    }
    for (int i = 0, n = 0; i < ALL; i++) {
        const int32_t a = i == 1 ? 8 : slot[n++], b = i == 1 ? 14 : slot[n++];
        d->early[i] = a < b ? a : b, d->late[i] = a < b ? b : a;
    }
}

/* Where the caller wants the answer's pairs; decoys stay where they are. */
static void use_depths(struct depths *d, int32_t length, const double *depths, int n) {
    for (int i = 0; i < NEEDLES; i++) {
        const int32_t a = at_fraction(length, depths[2 * i % n]);
        const int32_t b = at_fraction(length, depths[(2 * i + 1) % n]);
        d->early[i] = a < b ? a : b, d->late[i] = a < b ? b : a;
    }
}

/* The needles: those of the answer first, in its order, then the decoys. */
static void make_links(struct link links[NEEDLES + DECOYS]) {
    static const int8_t values[][2] = {{4, 1},   {1, 5},   {5, 6},   {6, 7},   {7, 8},
                                       {8, 9},   {9, 4},   {2, 2},   {3, 10},  {10, 16},
                                       {11, 12}, {12, 13}, {13, 14}, {14, 15}, {15, 16}};
    for (int i = 0; i < NEEDLES + DECOYS; i++)
        links[i] = (struct link){answer(values[i][0]), answer(values[i][1])};
}

/* A needle's two pairs. Two questions come twice, and a generated row answers the second time: its
 * pair must then weigh less than that row, so it stands where the second asking row's position
 * weight is low, and near, so that the first one's is not. Returns the position of the carrier, or
 * -1. */
static int32_t plant_needle(struct field *f, const struct depths *d, int i, struct link link) {
    const int32_t hop = NEEDLE_HOP + 1 + i, length = f->length;
    const int32_t near = length / 8 < NEAR ? length / 8 : NEAR;
    struct spot late = {.near = d->late[i]};
    if (link.a == QUESTION) {
        late.near = length - 1 - near * 7 / 10;
        late.seen_from = length + FIRST_ANSWERS - 1, late.phase = 1.8;
    } else if (link.a == answer(2)) {
        late.near = length - 1 - near * 4 / 10;
        late.seen_from = length + FIRST_ANSWERS + 1, late.phase = acos(-1);
    }
    const int32_t early = d->early[i] < late.near - 8 ? d->early[i] : late.near - 8;
    const int32_t value_at = plant(f, (struct spot){.near = early}, hop, carrier(link.b));
    if (value_at < 0) return -1;
    late.after = value_at;
    return plant(f, late, link.a, hop) < 0 ? -1 : value_at;
}

/* Pairs of unit i of the censuses; false: no room. */
static bool plant_census(struct field *f, const int32_t roll[NEEDLE_CENSUSES], int i, int pairs) {
    const int c = i % NEEDLE_CENSUSES, n = i / NEEDLE_CENSUSES;
    const bool votes = n % 2 == 1;
    const int32_t other = answer(1 + n % 28);
    const int32_t called = c + 1 < NEEDLE_CENSUSES ? NEEDLE_ROLL + c + 1 : NEEDLE_EOS;
    const int32_t call_row = f->length + LINKED_ANSWERS + 2 * c + 1;
    const struct spot tick = {.near = at_fraction(f->length, (i + 0.3) / pairs),
                              .before = roll[c],
                              .seen_from = roll[c],
                              .phase = acos(0)};
    const struct spot call = {
        .near = at_fraction(f->length, (i + 0.7) / pairs), .seen_from = call_row, .phase = acos(0)};
    return plant(f, tick, NEEDLE_TICK + c, carrier(votes ? NEEDLE_CALL + c : other)) >= 0 &&
           plant(f, call, NEEDLE_CALL + c, carrier(votes ? called : other)) >= 0;
}

static bool plant_all(struct field *f, const struct depths *d, int32_t value_at[NEEDLES]) {
    const int pairs = f->length < MANY_FROM ? FEW_PAIRS : MANY_PAIRS;
    int32_t roll[NEEDLE_CENSUSES];
    struct link links[NEEDLES + DECOYS];

    make_links(links);
    for (int i = 0; i < 4; i++) f->taken[i] = true;
    f->tok[2] = NEEDLE_CARRIER; /* a later carrier's row then has something that it matches */
    for (int c = 0; c < NEEDLE_CENSUSES; c++) {
        const struct spot s = {.near = f->length - 8 - 4 * c};
        roll[c] = plant(f, s, NEEDLE_ROLL + c, NEEDLE_TICK + c);
        if (roll[c] < 0) return false;
    }
    for (int i = 0; i < NEEDLES + DECOYS; i++) {
        const int32_t at = plant_needle(f, d, i, links[i]);
        if (at < 0) return false;
        if (i < NEEDLES) value_at[i] = at;
    }
    for (int i = 0; i < pairs; i++)
        if (!plant_census(f, roll, i, pairs)) return false;
    /* the question, twice: the last row's own key counts */
    f->tok[f->length - 2] = f->tok[f->length - 1] = QUESTION;
    return true;
}

/* ---- the prompt */

static void write_answer(struct needle_prompt *p, const int32_t value_at[NEEDLES]) {
    /* answer value, and the needle that it comes from or -1: a generated row */
    static const int8_t linked[LINKED_ANSWERS][2] = {
        {1, 0}, {5, 1}, {6, 2}, {7, 3}, {8, 4}, {9, 5}, {4, 6}, {2, -1}, {2, 7}, {3, -1}, {10, 8}};
    int n = 0;
    for (; n < LINKED_ANSWERS; n++) {
        p->answer[n] = answer(linked[n][0]);
        p->needle_positions[n] = linked[n][1] < 0 ? -1 : value_at[linked[n][1]];
    }
    for (int c = 0; c < NEEDLE_CENSUSES; c++) {
        p->needle_positions[n] = c == 0 ? value_at[NEEDLES - 1] : -1;
        p->answer[n++] = NEEDLE_ROLL + c;
        p->needle_positions[n] = -1;
        p->answer[n++] = NEEDLE_CALL + c;
    }
    p->needle_positions[n] = -1;
    p->answer[n] = NEEDLE_EOS;
}

static enum status check_arguments(int32_t length, const double *depths, int n_depths,
                                   struct error *err) {
    if (length < MIN_LENGTH)
        return error_set(err, STATUS_USAGE,
                         "a needle prompt of %d tokens is too short: its needles need %d", length,
                         MIN_LENGTH);
    for (int i = 0; i < n_depths; i++)
        if (!(depths[i] >= 0 && depths[i] <= 1))
            return error_set(err, STATUS_USAGE, "needle depth %g is outside [0, 1]", depths[i]);
    return STATUS_OK;
}

enum status needle_prompt_build(struct needle_prompt *out, int32_t length, const double *depths,
                                int n_depths, struct attention_pattern pattern, uint64_t seed,
                                struct error *err) {
    *out = (struct needle_prompt){0};
    if (check_arguments(length, depths, n_depths, err)) return STATUS_USAGE;

    struct needle_prompt p = {
        .tokens = malloc((size_t)length * sizeof *p.tokens),
        .length = length,
        .answer = malloc(ANSWERS * sizeof *p.answer),
        .answer_length = ANSWERS,
        .needle_positions = malloc(ANSWERS * sizeof *p.needle_positions),
        .needle_count = ANSWERS,
    };
    bool *taken = calloc((size_t)length + 1, sizeof *taken);
    if (!p.tokens || !p.answer || !p.needle_positions || !taken) {
        free(taken);
        needle_prompt_free(&p);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a needle prompt of %d tokens",
                         length);
    }

    struct random r = {.seed = seed, .stream = 2};
    struct depths d;
    int32_t value_at[NEEDLES];
    write_filler(p.tokens, length, seed);
    spread_depths(&d, length, &r);
    if (n_depths > 0) use_depths(&d, length, depths, n_depths);
    struct field f = {p.tokens, taken, length, pattern};
    const bool planted = plant_all(&f, &d, value_at);
    free(taken);
    if (!planted) {
        needle_prompt_free(&p);
        return error_set(err, STATUS_USAGE, "no room for all needles in a prompt of %d tokens",
                         length);
    }
    write_answer(&p, value_at);
    *out = p;
    return STATUS_OK;
}

void needle_prompt_free(struct needle_prompt *p) {
    free(p->tokens);
    free(p->answer);
    free(p->needle_positions);
    *p = (struct needle_prompt){0};
}
