/* SPDX-License-Identifier: Apache-2.0 */
/* run_path.c - L20: would search the working directory for libraries. */
#include "good.h"
