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
    labels_take(&l, (struct label_box){0, 100, 8, 20});
    assert_true(labels_place(&l, 50, 10, 1, 12, &at));
    assert_true(at.row < 7.56 && at.row > 7);
}

static void a_full_picture_has_no_place(void **state) {
    (void)state;
    struct labels l = {.letters = 100, .rows = 20};
    struct label_place at;
    labels_take(&l, (struct label_box){0, 100, 0, 20});
    assert_false(labels_place(&l, 50, 10, 1, 12, &at));
    assert_int_equal(l.n, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_stands_at_the_right_of_its_point),
        cmocka_unit_test(at_the_edge_it_stands_at_the_left),
        cmocka_unit_test(names_of_one_point_do_not_touch),
        cmocka_unit_test(what_is_drawn_stays_free),
        cmocka_unit_test(a_full_picture_has_no_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
