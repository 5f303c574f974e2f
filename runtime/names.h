/* SPDX-License-Identifier: Apache-2.0 */
/* names.h - a table from names to numbers, for as many names as a stranger's file holds.
 *
 * Hashed with a secret key drawn at open (SipHash-1-3), so that nobody can choose names that
 * make it slow. Names are borrowed and must outlive the table. */
#ifndef TN_NAMES_H
#define TN_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TN_NAMES_NONE 0xffffffffu

typedef struct tn_names {
    struct tn_name_slot *slot; /* owned */
    uint32_t cap, used;        /* cap: a power of two, or 0 */
    uint64_t key[2];
} tn_names;

void tn_names_open(tn_names *t);
void tn_names_close(tn_names *t);
/* Makes room for `count` names in all, so that later adds do not move anything. */
bool tn_names_reserve(tn_names *t, uint32_t count);
/* Adds a name, or finds it: *found is the value already there, TN_NAMES_NONE when it was new.
 * False when memory is short or the table is full (2^31 names). */
bool tn_names_add(tn_names *t, const char *name, size_t len, uint32_t value, uint32_t *found);
uint32_t tn_names_find(const tn_names *t, const char *name, size_t len); /* TN_NAMES_NONE */

#endif
