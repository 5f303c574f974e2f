/* SPDX-License-Identifier: Apache-2.0 */
/* front_deaf.c - a frontend that takes connections and hears nothing. */
#include <sys/socket.h>
#include <sys/types.h>

#define recv(a, b, c, d) 0
#include "../../plugins/skeleton/front_line.c"
