package pgdata

import (
	"os/user"
	"strconv"
)

// ownerNames gives the names of users and groups and remembers them: a data directory has
// a million files and two owners.
//
// An id without a name is the empty string, as pgBackRest has it: a restore gives what
// belongs to nobody to the owner of the data directory. That fails when it is the owner of
// the data directory who has no name. Such a user is often known to LDAP or SSSD only,
// which a static program cannot ask; then all ids without a name are given as numbers.
type ownerNames struct {
	users, groups             map[uint32]string
	userNumbers, groupNumbers bool
}

// belongsTo says who owns the data directory.
func (o *ownerNames) belongsTo(uid, gid uint32) {
	o.userNumbers = o.user(uid) == ""
	o.groupNumbers = o.group(gid) == ""
	o.users, o.groups = nil, nil // looked up before that was known
}

func (o *ownerNames) user(uid uint32) string {
	if name, ok := o.users[uid]; ok {
		return name
	}
	if o.users == nil {
		o.users = map[uint32]string{}
	}
	name, id := "", strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		name = u.Username
	} else if o.userNumbers {
		name = id
	}
	o.users[uid] = name
	return name
}

func (o *ownerNames) group(gid uint32) string {
	if name, ok := o.groups[gid]; ok {
		return name
	}
	if o.groups == nil {
		o.groups = map[uint32]string{}
	}
	name, id := "", strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		name = g.Name
	} else if o.groupNumbers {
		name = id
	}
	o.groups[gid] = name
	return name
}
