/* SPDX-License-Identifier: Apache-2.0 */
/* frontsession.h - conversations as files for frontends: names, the folder, its room, and what
 * a client may know of a failure. As in tn_front_host; the model's session_dir says where.
 *
 *     session_dir/NAME.OWNER.session      OWNER: 32 hexadecimal digits, zeros for nobody */
#ifndef TN_FRONTSESSION_H
#define TN_FRONTSESSION_H

#include "served.h"

tn_status tn_front_session_save(tn_served *served, tn_session *s, tn_err *err);
tn_status tn_front_session_restore(tn_served *served, tn_session *s, tn_err *err);
tn_status tn_front_session_fork(tn_served *served, tn_session *s, tn_err *err);

#endif
