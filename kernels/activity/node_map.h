/* Which op the nodes of recorded graphs belong to, by the numbers that CUPTI gives them. A graph
 * that runs is a copy of the one that was captured: its nodes have other numbers, and inherit. */
#ifndef KERNELS_ACTIVITY_NODE_MAP_H
#define KERNELS_ACTIVITY_NODE_MAP_H

#include <stdint.h>

/* Zeroed is empty. Not for several threads at once. */
struct node_map {
    struct node_entry {
        uint64_t node, place; /* place: op_place_pack(); 0: no entry */
    } * entries;              /* [capacity], a power of two; owned */
    int64_t n, capacity;
    int64_t lost; /* that found no memory */
};

void node_map_free(struct node_map *m);
/* A number that is given again belongs to the last that it was given to. place: not 0. */
void node_map_add(struct node_map *m, uint64_t node, uint64_t place);
/* What `from` has, `to` has too; nothing where `from` is not known. */
void node_map_copy(struct node_map *m, uint64_t from, uint64_t to);
/* The place of a node; 0: not known. */
uint64_t node_map_find(const struct node_map *m, uint64_t node);

#endif
