/* See node_map.h: a hash table with linear probing, at most half full. Before it: activity.c. */
#include "kernels/activity/node_map.h"

#include <stdbool.h>
#include <stdlib.h>

void node_map_free(struct node_map *m) {
    free(m->entries);
    *m = (struct node_map){0};
}

/* Where a node stands, or would. */
static struct node_entry *entry_of(const struct node_map *m, uint64_t node) {
    const uint64_t mask = (uint64_t)m->capacity - 1;
    uint64_t at = (node * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (m->entries[at].place != 0 && m->entries[at].node != node) at = (at + 1) & mask;
    return &m->entries[at];
}

static bool grow(struct node_map *m) {
    enum { FIRST = 4096 };
    struct node_map larger = {
        .n = m->n, .capacity = m->capacity > 0 ? 2 * m->capacity : FIRST, .lost = m->lost};
    larger.entries = calloc((size_t)larger.capacity, sizeof *larger.entries);
    if (!larger.entries) return false;
    for (int64_t i = 0; i < m->capacity; i++)
        if (m->entries[i].place != 0) *entry_of(&larger, m->entries[i].node) = m->entries[i];
    free(m->entries);
    *m = larger;
    return true;
}

void node_map_add(struct node_map *m, uint64_t node, uint64_t place) {
    if (2 * (m->n + 1) > m->capacity && !grow(m)) {
        m->lost++;
        return;
    }
    struct node_entry *e = entry_of(m, node);
    m->n += e->place == 0;
    *e = (struct node_entry){node, place};
}

void node_map_copy(struct node_map *m, uint64_t from, uint64_t to) {
    const uint64_t place = node_map_find(m, from);
    if (place != 0) node_map_add(m, to, place);
}

uint64_t node_map_find(const struct node_map *m, uint64_t node) {
    return m->capacity > 0 ? entry_of(m, node)->place : 0;
}
