package mutation

import (
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// ValidateGroup checks a group and every member; *InvalidError.
//
// Only the group has a request id. One key may be written by several members,
// which apply in order, but only the first of them may have a precondition: the
// others find what the group itself wrote. Keys must be canonical already for
// that to be seen. Commands are for a store without transactions over records, so
// none can be a member.
func ValidateGroup(g *walproxyv1.Group) error {
	members := g.GetMembers()
	if n := len(members); n < 1 || n > MaxMembers {
		return &InvalidError{"members", fmt.Sprintf("has %d members; 1 to %d", n, MaxMembers)}
	}
	if reason := checkRequestID(g.GetRequestId()); reason != "" {
		return &InvalidError{"request_id", reason}
	}
	written := make(map[string]bool, len(members))
	for i, member := range members {
		path := fmt.Sprintf("members[%d].", i)
		if err := validateMember(member); err != nil {
			return under(path, err)
		}
		collection, key := memberKey(member)
		id := string(AppendKey(nil, collection, key))
		if written[id] && member.GetMutation().GetPrecondition() != nil {
			return &InvalidError{path + "mutation.precondition", "an earlier member writes the same key"}
		}
		written[id] = true
	}
	return nil
}

func validateMember(member *walproxyv1.Group_Member) error {
	path, id := "", ""
	var err error
	switch k := member.GetKind().(type) {
	case *walproxyv1.Group_Member_Mutation:
		path, id, err = "mutation.", k.Mutation.GetRequestId(), Validate(k.Mutation)
	case *walproxyv1.Group_Member_Statement:
		path, id, err = "statement.", k.Statement.GetRequestId(), ValidateStatement(k.Statement)
	case *walproxyv1.Group_Member_Command:
		return &InvalidError{"command", "cannot be in a group: no store does a group of these as one"}
	default:
		return &InvalidError{"kind", "is missing"}
	}
	if err != nil {
		return under(path, err)
	}
	if id != "" {
		return &InvalidError{path + "request_id", "belongs to the group, not to a member"}
	}
	return nil
}

// memberKey returns what a member writes.
func memberKey(member *walproxyv1.Group_Member) (collection string, key *walproxyv1.Key) {
	switch k := member.GetKind().(type) {
	case *walproxyv1.Group_Member_Mutation:
		return k.Mutation.GetCollection(), k.Mutation.GetKey()
	case *walproxyv1.Group_Member_Statement:
		return k.Statement.GetCollection(), k.Statement.GetKey()
	case *walproxyv1.Group_Member_Command:
		return k.Command.GetCollection(), k.Command.GetKey()
	}
	return "", nil
}

// ValidateStatement checks a statement; *InvalidError.
func ValidateStatement(s *walproxyv1.Statement) error {
	if s == nil {
		return &InvalidError{"statement", "is missing"}
	}
	if s.GetText() == "" {
		return &InvalidError{"text", "is missing"}
	}
	if reason := checkText("text", s.GetText()); reason != "" {
		return &InvalidError{"text", reason}
	}
	if n := len(s.GetParameterOids()); n > MaxParameters {
		return &InvalidError{"parameter_oids", fmt.Sprintf("are %d; at most %d", n, MaxParameters)}
	}
	if reason := checkText("role", s.GetRole()); reason != "" {
		return &InvalidError{"role", reason}
	}
	if reason := checkText("search_path", s.GetSearchPath()); reason != "" {
		return &InvalidError{"search_path", reason}
	}
	if n := len(s.GetSettings()); n > MaxSettings {
		return &InvalidError{"settings", fmt.Sprintf("are %d; at most %d", n, MaxSettings)}
	}
	for name, value := range s.GetSettings() {
		if reason := checkText("setting", name+value); reason != "" {
			return &InvalidError{"settings", reason}
		}
	}
	return validateTarget(s.GetCollection(), s.GetKey(), s.GetRequestId())
}

// ValidateCommand checks a command; *InvalidError.
func ValidateCommand(c *walproxyv1.Command) error {
	if c == nil {
		return &InvalidError{"command", "is missing"}
	}
	if len(c.GetMessage()) == 0 {
		return &InvalidError{"message", "is missing"}
	}
	return validateTarget(c.GetCollection(), c.GetKey(), c.GetRequestId())
}

func validateTarget(collection string, key *walproxyv1.Key, requestID string) error {
	if reason := checkCollection(collection); reason != "" {
		return &InvalidError{"collection", reason}
	}
	if err := validateKey("key", key); err != nil {
		return err
	}
	if reason := checkRequestID(requestID); reason != "" {
		return &InvalidError{"request_id", reason}
	}
	return nil
}

// ValidatePrincipal checks the principal of a record; *InvalidError.
func ValidatePrincipal(principal string) error {
	if len(principal) > MaxPrincipalBytes {
		return &InvalidError{"principal", fmt.Sprintf("is %d bytes; at most %d", len(principal), MaxPrincipalBytes)}
	}
	if reason := checkText("name", principal); reason != "" {
		return &InvalidError{"principal", reason}
	}
	return nil
}
