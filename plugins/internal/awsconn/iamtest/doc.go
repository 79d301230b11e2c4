// Package iamtest evaluates IAM policies, so that the tests of a plugin can hold
// the policies of its README to what they are said to allow and deny.
//
// It knows the part of IAM that such policies need, and refuses a document that
// needs another: an element, operator or form that it does not know is an error
// of Parse and never ignored. The rules, and where AWS documents them:
//
//   - An explicit deny wins over an allow, and without either the answer is no.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
//   - Action: '*' and '?' are wildcards, case does not matter.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_action.html
//   - Resource: '*' and '?' are wildcards within one part of the ARN, a '*' that
//     ends a part may run past its colon, case matters.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html
//   - Conditions: all operators and all keys must hold, of a key's values one. A
//     key that the request does not have fails every operator but the negated
//     ones, those with IfExists, and Null. Names of keys have no case.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html
//   - ForAllValues holds if every value that the request has passes, and so for a
//     request that has none: it bounds what is asked for and demands nothing.
//     ForAnyValue needs one that passes.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html
//   - Variables stand in the last part of a resource's ARN and in the values of
//     string and ARN operators. One that has no value matches nothing, and a
//     condition that is negated does not hold for it either. What is put in for
//     one is text: a '*' in it is no wildcard. They need Version 2012-10-17.
//     https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
//
// What it can not tell: whether a service fills a condition key for an action at
// all. The test says so, in Request.Context, by the service's own page of
// https://docs.aws.amazon.com/service-authorization/latest/reference/.
package iamtest
