/* Names beside points: at their point where there is room, else as near as can be, never over what
 * is there. */
#include "harness/plot_labels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void a_name_stands_at_the_right_of_its_point(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at;
    assert_true(labels_place(&l, 50, 10, 1, 12, &at));
    assert_true(at.right && at.row == 10 && at.letter > 51 && at.letter < 53);
}

static void at_the_edge_it_stands_at_the_left(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at;
    assert_true(labels_place(&l, 95, 10, 1, 12, &at));
    assert_true(!at.right && at.row == 10 && at.letter < 94);
}

static void names_of_one_point_do_not_touch(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at[6];
    for (int i = 0; i < 6; i++) assert_true(labels_place(&l, 50, 10, 1, 12, &at[i]));
    for (int i = 0; i < 6; i++) {
        assert_true(fabs(at[i].row - 10) < 2); /* three on each side: none is far */
        for (int k = 0; k < i; k++)
            assert_true(at[i].right != at[k].right || fabs(at[i].row - at[k].row) > 0.89);
    }
}

static void what_is_drawn_stays_free(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at;
    labels_take(&l, (struct label_box){0, 100, 8, 20, false});
    assert_true(labels_place(&l, 50, 10, 1, 12, &at));
    assert_true(at.row < 7.56 && at.row > 7);
}

/* All names must go below; on the way to the right there are words, or only a drawing. */
static void no_line_leads_across_words_where_there_is_another_way(void **state) {
    (void)state;
    for (int words = 0; words < 2; words++) {
        struct labels l = {.letters = 120, .rows = 20};
        struct label_place at;
        labels_take(&l, (struct label_box){0, 120, 8.4, 20, false});
        labels_take(&l, (struct label_box){50, 51.7, 8, 8.4, words});
        assert_true(labels_place(&l, 50, 10, 1, 12, &at));
        assert_true(at.apart && at.row < 8);
        assert_int_equal(at.right, !words);
        l.n = 2;
        assert_true(labels_place(&l, 50, 10, 1, 49, &at)); /* too long for the left */
        assert_true(at.right && at.row < 8);
    }
}

static void no_name_stands_on_a_line(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place first, second;
    labels_take(&l, (struct label_box){0, 100, 8.4, 20, false});
    assert_true(labels_place(&l, 50, 10, 1, 12, &first));
    assert_true(first.apart && first.right);
    l.taken[0] = (struct label_box){0};
    assert_true(labels_place(&l, 40, 9, 0, 12, &second)); /* at its right the line comes down */
    assert_true(!second.right && second.row == 9 && !second.apart);
}

static void a_full_picture_has_no_place(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at;
    labels_take(&l, (struct label_box){0, 100, 0, 20, false});
    assert_false(labels_place(&l, 50, 10, 1, 12, &at));
    assert_int_equal(l.n, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_stands_at_the_right_of_its_point),
        cmocka_unit_test(at_the_edge_it_stands_at_the_left),
        cmocka_unit_test(names_of_one_point_do_not_touch),
        cmocka_unit_test(what_is_drawn_stays_free),
        cmocka_unit_test(no_line_leads_across_words_where_there_is_another_way),
        cmocka_unit_test(no_name_stands_on_a_line),
        cmocka_unit_test(a_full_picture_has_no_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
