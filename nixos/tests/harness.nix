# As much of nixpkgs' lib as the module uses, written from its manual, so that real
# Nix can evaluate the module where nixpkgs cannot be had.
let
  inherit (builtins) attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' head isAttrs
    isBool isFunction isInt isList isString length listToAttrs map stringLength substring tail toJSON toString;

  filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  showOption = concatStringsSep ".";
  isType = type: x: isAttrs x && x._type or null == type;

  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };

  # The attribute sets in a definition, with the conditions moved to their leaves:
  # what a configuration has must not depend on itself.
  push = definition:
    if isType "merge" definition then concatMap push definition.contents
    else if isType "if" definition then
      map (set: builtins.mapAttrs (_: mkIf definition.condition) set) (push definition.content)
    else [ definition ];

  # The values in the definitions of one option.
  discharge = definition:
    if isType "merge" definition then concatMap discharge definition.contents
    else if isType "if" definition then (if definition.condition then discharge definition.content else [ ])
    else [ definition ];
  priorityOf = x: if isType "override" x then x.priority else 100;
  strongest = values:
    let least = foldl' (p: x: if priorityOf x < p then priorityOf x else p) 10000 values;
    in map (x: if isType "override" x then x.content else x) (filter (x: priorityOf x == least) values);

  # The value of type from its definitions.
  mergeValues = loc: type: values:
    let
      wrong = filter (value: !type.check value) values;
      show = value: if isFunction value then "<function>" else if isAttrs value then "<set>" else toJSON value;
    in
    if wrong != [ ] then
      throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition value: ${show (head wrong)}"
    else type.merge loc (map (value: { file = "<test>"; inherit value; }) values);
  mergeDefinitions = loc: type: definitions: mergeValues loc type (strongest (concatMap discharge definitions));

  valuesOf = map (definition: definition.value);
  mergeEqualOption = loc: definitions:
    let values = valuesOf definitions; in
    if builtins.all (value: value == head values) values then head values
    else throw "The option `${showOption loc}' has conflicting definition values.";

  mkOptionType = { name, description ? name, check ? (_: true), merge ? mergeEqualOption, getSubOptions ? (_: { }) }@type:
    { _type = "option-type"; inherit description check merge getSubOptions; } // type;
  simple = name: description: check: mkOptionType { inherit name description check; };

  types = rec {
    bool = simple "bool" "boolean" isBool;
    str = simple "str" "string" isString;
    package = simple "package" "package" (x: isAttrs x && x.type or null == "derivation");
    ints = {
      positive = simple "positiveInt" "positive integer, meaning >0" (x: isInt x && x > 0);
      between = low: high: simple "intBetween" "integer between ${toString low} and ${toString high} (both inclusive)"
        (x: isInt x && x >= low && x <= high);
    };
    enum = values: simple "enum" "one of ${concatStringsSep ", " (map toJSON values)}" (x: elem x values);
    nullOr = type: mkOptionType {
      name = "nullOr";
      description = "null or ${type.description}";
      check = x: x == null || type.check x;
      merge = loc: definitions:
        if builtins.all (value: value == null) (valuesOf definitions) then null
        else type.merge loc definitions;
    };
    listOf = type: mkOptionType {
      name = "listOf";
      description = "list of ${type.description}";
      check = isList;
      merge = loc: definitions: map (x: mergeDefinitions (loc ++ [ "[]" ]) type [ x ]) (concatLists (valuesOf definitions));
    };
    attrsOf = type: mkOptionType {
      name = "attrsOf";
      description = "attribute set of ${type.description}";
      check = isAttrs;
      getSubOptions = prefix: type.getSubOptions (prefix ++ [ "‹name›" ]);
      merge = loc: definitions:
        let sets = concatMap push (valuesOf definitions); in
        builtins.mapAttrs
          (name: _: mergeDefinitions (loc ++ [ name ]) type (concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets))
          (foldl' (all: set: all // set) { } sets);
    };
    submodule = module: mkOptionType {
      name = "submodule";
      description = "submodule";
      check = isAttrs;
      getSubOptions = prefix: (evaluate prefix { modules = [ module ]; specialArgs.name = "‹name›"; }).options;
      merge = loc: definitions: (evaluate loc {
        modules = [ module ] ++ valuesOf definitions;
        specialArgs.name = elemAt loc (length loc - 1);
      }).config;
    };
    anything = mkOptionType {
      name = "anything";
      description = "anything";
      merge = loc: definitions:
        let values = valuesOf definitions; in
        if builtins.all isAttrs values then (attrsOf anything).merge loc definitions
        else if builtins.all isList values then concatLists values
        else mergeEqualOption loc definitions;
    };
  };

  evaluate = prefix: { modules, specialArgs ? { } }:
    let
      load = module:
        let
          source = if builtins.isPath module then import module else module;
          set = if isFunction source then source ({ inherit config options lib; } // specialArgs) else source;
        in
        concatMap load set.imports or [ ] ++ [
          (if set ? options || set ? config then { options = set.options or { }; config = set.config or { }; }
          else { options = { }; config = removeAttrs set [ "imports" ]; })
        ];
      loaded = concatMap load modules;

      under = name: concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]);
      namesOf = sets: unique (concatMap attrNames sets);

      optionTree = sets:
        listToAttrs (map
          (name:
            let found = under name sets; in {
              inherit name;
              value = if isType "option" (head found) then head found else optionTree found;
            })
          (namesOf sets));
      options = optionTree (map (module: module.options) loaded);

      configTree = loc: tree: definitions:
        let
          sets = concatMap push definitions;
          unknown = filter (name: !(tree ? ${name})) (namesOf sets);
          value = name: option:
            let
              path = loc ++ [ name ];
              given = concatMap discharge (under name sets);
            in
            if !isType "option" option then configTree path option (under name sets)
            else if given != [ ] then
              (if option.readOnly or false then throw "The option `${showOption path}' is read-only."
              else mergeValues path option.type (strongest given))
            else if option ? default then mergeValues path option.type [ option.default ]
            else throw "The option `${showOption path}' was accessed but has no value defined. Try setting the option.";
        in
        if unknown != [ ] then throw "The option `${showOption (loc ++ [ (head unknown) ])}' does not exist."
        else builtins.mapAttrs value tree;
      config = configTree prefix options (map (module: module.config) loaded);
    in
    { inherit config options; };

  lib = {
    inherit concatLists concatMap concatStringsSep filter filterAttrs isType mergeEqualOption mkIf mkMerge mkOptionType types unique;
    inherit (builtins) any all mapAttrs;
    evalModules = evaluate [ ];
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    mapAttrsToList = f: set: attrValues (builtins.mapAttrs f set);
    optional = condition: x: if condition then [ x ] else [ ];
    optionals = condition: xs: if condition then xs else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    setAttrByPath = path: value: if path == [ ] then value else { ${head path} = lib.setAttrByPath (tail path) value; };
    attrByPath = path: default: set:
      if path == [ ] then set
      else if set ? ${head path} then lib.attrByPath (tail path) default set.${head path}
      else default;
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix = prefix: text:
      if lib.hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
  };
in
lib
