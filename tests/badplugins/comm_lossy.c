/* SPDX-License-Identifier: Apache-2.0 */
/* comm_lossy.c - a communicator that copies a little less than it should. */
#include <string.h>
#include <tenon/plugin.h>

#define memcpy(d, s, n) memmove(d, s, (n) > 4 ? (n) - 4 : (n))
#include "../../plugins/skeleton/comm_shared.c"
